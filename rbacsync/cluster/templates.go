package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// templates knows the objects from templates: from watches, once these have seen everything, else as of the last time that
// they were read, with what was written since.
type templates struct {
	mirror   *mirror // nil without watches
	followed bool    // the last load left the reading of used kinds to the mirror
	read     bool

	listed     *mirror              // of what is not followed, as it was read
	namespaces map[string]types.UID // that the objects are in
	secrets    map[string]map[string]any
}

// templateWait is how long the first observation waits for the watches of templates before they are listed.
const templateWait = 10 * time.Second

// add adds the objects from templates to what was observed. When they can't be read, they are left out, with a finding.
func (st *templates) add(ctx context.Context, o *Options, have *rbacsync.Observed, scope rbacsync.Scope, reread bool) {
	if scope == nil {
		if err := st.refresh(ctx, o, reread); err != nil {
			have.NoTemplates = true
			have.Findings = append(have.Findings, authz.Finding{Code: "templates_unread", Text: "templates are left out of this round: " + err.Error()})
			return
		}
		have.Findings = append(have.Findings, st.lacking(o)...)
	}
	have.Secrets = st.secrets
	if scope != nil && (!st.followed || !st.read) {
		have.NoTemplates = true
		return
	}
	uids := map[string]types.UID{}
	for _, l := range slices.Concat(have.Live, have.Unmarked) {
		if l.Namespace != nil {
			uids[l.Key.Name] = l.UID
		}
	}
	var sights []*rbacsync.Observed
	if st.followed {
		sights = append(sights, st.mirror.observed(scope))
	}
	if scope == nil {
		st.listed.forgetIn(func(ns string) bool { // the namespace is gone, or another one
			uid, ok := uids[ns]
			return !ok || st.namespaces[ns] != "" && st.namespaces[ns] != uid
		})
		st.namespaces = uids
		sights = append(sights, st.listed.observed(nil))
	}
	have.Foreign = maps.Clone(have.Foreign)
	for _, seen := range sights {
		for _, l := range seen.Live {
			if _, ok := uids[l.Key.Namespace]; ok {
				have.Live = append(have.Live, l)
			}
		}
		maps.Copy(have.Foreign, seen.Foreign)
	}
	sortLive(have.Live)
}

// refresh reads what has to be read; see load.
func (st *templates) refresh(ctx context.Context, o *Options, reread bool) error {
	followed := st.mirror.awaitReady(ctx, templateWait) // if it takes longer, or is forbidden, they are listed
	if !reread && st.read && followed == st.followed {
		return nil
	}
	st.followed = followed
	err := st.load(ctx, o)
	st.read = err == nil
	return err
}

// lacking names the Secrets that templates copy and that are not there.
func (st *templates) lacking(o *Options) []authz.Finding {
	var out []authz.Finding
	for _, tpl := range o.Templates.List {
		if tpl.CopyFrom != "" && st.secrets[tpl.CopyFrom] == nil {
			out = append(out, authz.Finding{
				Code: "template_secret_missing",
				Text: fmt.Sprintf("the Secret %s, from which the template %s copies, does not exist in namespace %s", tpl.CopyFrom, tpl.KeyName(), o.OwnNamespace),
			})
		}
	}
	return out
}

const fromTemplates = ours + "," + kubename.LabelTemplate

func templateFeed(client dynamic.Interface, kind rbacsync.TemplateKind, o metav1.ListOptions) feed {
	parse := func(obj runtime.Object) (entry, error) {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return entry{}, fmt.Errorf("the API server sent a %T, which was not asked for", obj)
		}
		return templateEntry(kind, u), nil
	}
	return feedOf(kind.Resource+" from templates", client.Resource(kind.GVR()), parse, o)
}

// templateFeeds returns, of each kind that a template has, the objects with our marks, and of those that the selector
// foreign selects the ones that have a template's name. Secrets are asked for by name alone: whoever may list all of them
// sees everything. Kinds that no template has are not followed: see leftFeeds.
func templateFeeds(client dynamic.Interface, t *rbacsync.Templates, foreign string) []feed {
	var out []feed
	seen := map[string]bool{}
	for _, tpl := range t.List {
		if !tpl.Kind.Secret() && !seen[tpl.Kind.Resource+"."+tpl.Kind.Group] {
			seen[tpl.Kind.Resource+"."+tpl.Kind.Group] = true
			out = append(out, templateFeed(client, tpl.Kind, metav1.ListOptions{LabelSelector: fromTemplates}))
		}
		if seen[tpl.KeyName()] {
			continue
		}
		seen[tpl.KeyName()] = true
		named := "metadata.name=" + tpl.Name
		out = append(out, templateFeed(client, tpl.Kind, metav1.ListOptions{LabelSelector: foreign, FieldSelector: named}))
		if tpl.Kind.Secret() && foreign != "" {
			out = append(out, templateFeed(client, tpl.Kind, metav1.ListOptions{LabelSelector: fromTemplates, FieldSelector: named}))
		}
	}
	return out
}

// leftFeeds returns the objects that templates of before have left behind: of the kinds that no template has. They may be
// forbidden.
func leftFeeds(client dynamic.Interface, t *rbacsync.Templates) []feed {
	var out []feed
	for _, kind := range t.Kinds {
		if !kind.Secret() && !slices.ContainsFunc(t.List, func(x *rbacsync.Template) bool { return x.Kind == kind }) {
			f := templateFeed(client, kind, metav1.ListOptions{LabelSelector: fromTemplates})
			f.optional = true
			out = append(out, f)
		}
	}
	return out
}

// load reads what is not followed, and the Secrets to copy.
func (st *templates) load(ctx context.Context, o *Options) error {
	if o.Dynamic == nil {
		return errors.New("there is no client for them")
	}
	of := leftFeeds(o.Dynamic, o.Templates)
	if !st.followed {
		of = append(of, templateFeeds(o.Dynamic, o.Templates, "")...)
	}
	listed := newMirror(of, nil, nil)
	if err := listed.fill(ctx); err != nil {
		return err
	}
	secrets := map[string]map[string]any{}
	for _, tpl := range o.Templates.List {
		if tpl.CopyFrom == "" || secrets[tpl.CopyFrom] != nil {
			continue
		}
		secret, err := o.Dynamic.Resource(tpl.Kind.GVR()).Namespace(o.OwnNamespace).Get(ctx, tpl.CopyFrom, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the Secret %s to copy: %w", tpl.CopyFrom, err)
		}
		data, _ := secret.Object["data"].(map[string]any)
		if data == nil {
			data = map[string]any{}
		}
		secrets[tpl.CopyFrom] = data
	}
	listed.recall(st.listed)
	st.listed, st.secrets = listed, secrets
	return nil
}

// templateEntry reads an object into our form.
func templateEntry(kind rbacsync.TemplateKind, o *unstructured.Unstructured) entry {
	labels, notes := o.GetLabels(), o.GetAnnotations()
	l := liveOf(rbacsync.Key{Namespace: o.GetNamespace(), Kind: rbacsync.KindTemplate, Name: kind.Kind + "/" + o.GetName()}, o)
	l.FromTemplate = &rbacsync.TemplateObject{Kind: kind, Name: o.GetName(), Hash: notes[kubename.AnnotationTemplate], Content: rbacsync.TemplateContent(o.Object)}
	return entry{l, labels[kubename.LabelManagedBy] == kubename.ManagedBy && labels[kubename.LabelTemplate] != ""}
}

// wrote takes in a write of ours: what it made, or nil.
func (st *templates) wrote(k rbacsync.Key, l *rbacsync.Live) {
	st.mirror.wrote(k, l)
	if l == nil || !st.followed {
		st.listed.wrote(k, l)
	}
}

// withNulls adds a null for every key that is in the cluster and not in the template, so that a merge patch takes it
// away. Labels and annotations of others stay.
func withNulls(want, have map[string]any) map[string]any {
	out := maps.Clone(want)
	for k, h := range have {
		w, ok := want[k]
		if k == "metadata" || k == "apiVersion" || k == "kind" {
			continue
		}
		if !ok {
			out[k] = nil
			continue
		}
		wm, ok1 := w.(map[string]any)
		hm, ok2 := h.(map[string]any)
		if ok1 && ok2 {
			out[k] = withNulls(wm, hm)
		}
	}
	return out
}

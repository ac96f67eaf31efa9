package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
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
	waited   bool    // for the first sight of the mirror
	followed bool    // the last load left the reading of used kinds to the mirror
	read     bool

	mu         sync.Mutex // wrote is called by several goroutines
	live       map[rbacsync.Key]*rbacsync.Live
	foreign    map[rbacsync.Key]bool
	namespaces map[string]types.UID // that the objects are in
	secrets    map[string]map[string]any
}

// templateSight is how long the first observation waits for the watches of templates before they are listed.
const templateSight = 10 * time.Second

// begin forgets what is known. m, which may be nil, follows the objects from now on.
func (st *templates) begin(m *mirror) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.mirror, st.waited, st.followed, st.read = m, false, false, false
	st.live, st.foreign, st.namespaces = nil, nil, nil
}

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
	have.Foreign = maps.Clone(have.Foreign)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.followed {
		seen := st.mirror.observed(scope)
		for _, l := range seen.Live {
			if uids[l.Key.Namespace] != "" {
				have.Live = append(have.Live, l)
			}
		}
		maps.Copy(have.Foreign, seen.Foreign)
	}
	if scope == nil {
		for k, l := range st.live {
			uid, ok := uids[k.Namespace]
			if !ok || (st.namespaces[k.Namespace] != "" && st.namespaces[k.Namespace] != uid) {
				delete(st.live, k) // the namespace is gone, or another one
				continue
			}
			have.Live = append(have.Live, l)
		}
		st.namespaces = uids
		maps.Copy(have.Foreign, st.foreign)
	}
	sortLive(have.Live)
}

// refresh reads what has to be read; see load.
func (st *templates) refresh(ctx context.Context, o *Options, reread bool) error {
	if st.mirror != nil && !st.waited {
		st.waited = true
		_ = st.mirror.await(ctx, templateSight) // if it takes longer, or is forbidden, they are listed
	}
	followed := st.mirror != nil && st.mirror.isReady()
	if !reread && st.read && followed == st.followed {
		return nil
	}
	st.followed = followed
	err := st.load(ctx, o.Dynamic, o.OwnNamespace, o.Templates)
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

// templateFeeds returns what has to be watched: of each kind that a template has, the objects with our marks, and those
// without that have a template's name. Secrets are watched by name alone: whoever may list all of them sees everything.
// Kinds that no template has are left to the full rounds, which look for what a template left behind.
func templateFeeds(client dynamic.Interface, t *rbacsync.Templates) []feed {
	of := func(kind rbacsync.TemplateKind, o metav1.ListOptions) feed {
		c := client.Resource(kind.GVR())
		return feed{
			what: kind.Resource + " from templates", options: o, watch: c.Watch,
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return c.List(ctx, o) },
			parse: func(obj runtime.Object) (entry, error) {
				u, ok := obj.(*unstructured.Unstructured)
				if !ok {
					return entry{}, fmt.Errorf("the API server sent a %T, which was not asked for", obj)
				}
				l, ours := templateLive(kind, u)
				e := entry{key: l.Key, version: l.ResourceVersion}
				if ours {
					e.live = l
				}
				return e, nil
			},
		}
	}
	const mine = ours + "," + kubename.LabelTemplate
	var out []feed
	seen := map[string]bool{}
	for _, tpl := range t.List {
		if !tpl.Kind.Secret() && !seen[tpl.Kind.Resource+"."+tpl.Kind.Group] {
			seen[tpl.Kind.Resource+"."+tpl.Kind.Group] = true
			out = append(out, of(tpl.Kind, metav1.ListOptions{LabelSelector: mine}))
		}
		if seen[tpl.KeyName()] {
			continue
		}
		seen[tpl.KeyName()] = true
		named := "metadata.name=" + tpl.Name
		out = append(out, of(tpl.Kind, metav1.ListOptions{LabelSelector: notOurs, FieldSelector: named}))
		if tpl.Kind.Secret() {
			out = append(out, of(tpl.Kind, metav1.ListOptions{LabelSelector: mine, FieldSelector: named}))
		}
	}
	return out
}

// load reads all objects with the mark of templates, those that have a name of a template, and the Secrets to copy; of
// the first two only what is not followed. Secrets are only asked for by name: whoever may list all of them sees
// everything.
func (st *templates) load(ctx context.Context, client dynamic.Interface, own string, t *rbacsync.Templates) error {
	if client == nil {
		return errors.New("there is no client for them")
	}
	live, foreign, secrets := map[rbacsync.Key]*rbacsync.Live{}, map[rbacsync.Key]bool{}, map[string]map[string]any{}
	list := func(kind rbacsync.TemplateKind, o metav1.ListOptions) error {
		o.Limit = pageSize
		for {
			page, err := client.Resource(kind.GVR()).List(ctx, o)
			if err != nil {
				return fmt.Errorf("listing %s: %w", kind.Resource, err)
			}
			for i := range page.Items {
				l, ours := templateLive(kind, &page.Items[i])
				if ours {
					live[l.Key] = l
				} else {
					foreign[l.Key] = true
				}
			}
			if o.Continue = page.GetContinue(); o.Continue == "" {
				return nil
			}
		}
	}
	for _, kind := range t.Kinds {
		used := slices.ContainsFunc(t.List, func(x *rbacsync.Template) bool { return x.Kind == kind })
		if !kind.Secret() && (!used || !st.followed) {
			if err := list(kind, metav1.ListOptions{LabelSelector: ours + "," + kubename.LabelTemplate}); err != nil && used {
				return err // a kind without a template may be forbidden
			}
		}
	}
	asked := map[string]bool{}
	for _, tpl := range t.List {
		if !asked[tpl.KeyName()] && !st.followed {
			asked[tpl.KeyName()] = true
			if err := list(tpl.Kind, metav1.ListOptions{FieldSelector: "metadata.name=" + tpl.Name}); err != nil {
				return err
			}
		}
		if tpl.CopyFrom == "" || secrets[tpl.CopyFrom] != nil {
			continue
		}
		o, err := client.Resource(tpl.Kind.GVR()).Namespace(own).Get(ctx, tpl.CopyFrom, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the Secret %s to copy: %w", tpl.CopyFrom, err)
		}
		data, _ := o.Object["data"].(map[string]any)
		if data == nil {
			data = map[string]any{}
		}
		secrets[tpl.CopyFrom] = data
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for k, l := range live { // what was compared once need not be compared again
		if old := st.live[k]; old != nil && old.UID == l.UID && old.ResourceVersion == l.ResourceVersion {
			live[k] = old
		}
	}
	st.live, st.foreign, st.secrets = live, foreign, secrets
	return nil
}

// templateLive reads an object into our form.
func templateLive(kind rbacsync.TemplateKind, o *unstructured.Unstructured) (l *rbacsync.Live, ours bool) {
	labels, notes := o.GetLabels(), o.GetAnnotations()
	content := maps.Clone(o.Object)
	content["metadata"] = map[string]any{"labels": rbacsync.AnyMap(labels), "annotations": rbacsync.AnyMap(notes)}
	delete(content, "status")
	return &rbacsync.Live{
		Object: rbacsync.Object{
			Key:          rbacsync.Key{Namespace: o.GetNamespace(), Kind: rbacsync.KindTemplate, Name: kind.Kind + "/" + o.GetName()},
			FromTemplate: &rbacsync.TemplateObject{Kind: kind, Name: o.GetName(), Hash: notes[kubename.AnnotationTemplate], Content: content},
		},
		UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(), Deleting: o.GetDeletionTimestamp() != nil,
	}, labels[kubename.LabelManagedBy] == kubename.ManagedBy && labels[kubename.LabelTemplate] != ""
}

// wrote takes in a write of ours: what it made, or nil.
func (st *templates) wrote(k rbacsync.Key, l *rbacsync.Live, hash string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if l == nil {
		delete(st.live, k)
		if st.mirror != nil {
			st.mirror.forget(k)
		}
		return
	}
	l.FromTemplate.Verified = hash // what the API server made of it is what it is
	if st.mirror != nil {
		st.mirror.wrote(l)
	}
	if st.followed {
		return
	}
	if st.live == nil {
		st.live = map[rbacsync.Key]*rbacsync.Live{}
	}
	st.live[k] = l
}

// writeTemplate creates, updates or deletes an object from a template.
func writeTemplate(ctx context.Context, client dynamic.Interface, c rbacsync.Change, wrote func(rbacsync.Key, *rbacsync.Live, string)) error {
	if client == nil {
		return errors.New("there is no client for templates")
	}
	if c.Action == rbacsync.Delete {
		err := client.Resource(c.Old.FromTemplate.Kind.GVR()).Namespace(c.Key.Namespace).Delete(ctx, c.Old.FromTemplate.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &c.Old.UID, ResourceVersion: &c.Old.ResourceVersion},
		})
		if err == nil && wrote != nil {
			wrote(c.Key, nil, "")
		}
		return err
	}
	e := c.New.FromTemplate
	o := e.Render()
	api := client.Resource(e.Kind.GVR()).Namespace(c.Key.Namespace)
	var got *unstructured.Unstructured
	var err error
	if c.Action == rbacsync.Create {
		got, err = api.Create(ctx, o, metav1.CreateOptions{})
	} else {
		// A merge patch leaves alone what others added beside it; fields of ours that are maps are replaced by theirs.
		o.SetUID(c.Old.UID)
		o.SetResourceVersion(c.Old.ResourceVersion)
		var body []byte
		if body, err = json.Marshal(withNulls(o.Object, c.Old.FromTemplate.Content)); err != nil {
			return err
		}
		got, err = api.Patch(ctx, e.Name, types.MergePatchType, body, metav1.PatchOptions{})
	}
	if err == nil && wrote != nil {
		l, _ := templateLive(e.Kind, got)
		wrote(c.Key, l, e.Hash)
	}
	return err
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

package rbacsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// templateStore knows the objects from templates as of the last full round, and what was written since.
type templateStore struct {
	mu      sync.Mutex
	read    bool
	live    map[Key]*Live
	foreign map[Key]bool
	spaces  map[string]types.UID // of the namespaces that the objects are in
	secrets map[string]map[string]any
}

// addTemplates adds the objects from templates to what was observed; it reads them when asked to. When they can't
// be read, they are left out of the round, with a finding.
func (s *Syncer) addTemplates(ctx context.Context, r *Round, have *Observed, read bool) {
	t := s.o.Settings.Templates
	if t == nil {
		return
	}
	st := &s.templates
	if read || !st.read {
		if err := st.load(ctx, s.o.Dynamic, s.o.OwnNamespace, t); err != nil {
			st.read = false
			r.Findings = append(r.Findings, authz.Finding{Code: "templates_unread", Text: "templates are left out of this round: " + err.Error()})
			return
		}
	}
	for _, tpl := range t.List {
		if tpl.CopyFrom != "" && st.secrets[tpl.CopyFrom] == nil {
			r.Findings = append(r.Findings, authz.Finding{
				Code: "template_secret_missing",
				Text: fmt.Sprintf("the Secret %s, from which the template %s copies, does not exist in namespace %s", tpl.CopyFrom, tpl.keyName(), s.o.OwnNamespace),
			})
		}
	}
	uids := map[string]types.UID{}
	for _, l := range have.Live {
		if l.Space != nil {
			uids[l.Key.Name] = l.UID
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for k, l := range st.live {
		uid, ok := uids[k.Namespace]
		if !ok || (st.spaces[k.Namespace] != "" && st.spaces[k.Namespace] != uid) {
			delete(st.live, k) // the namespace is gone, or another one
			continue
		}
		have.Live = append(have.Live, l)
	}
	st.spaces = uids
	if len(st.foreign) > 0 {
		have.Foreign = maps.Clone(have.Foreign)
		maps.Copy(have.Foreign, st.foreign)
	}
	slices.SortFunc(have.Live, func(a, b *Live) int { return a.Key.Compare(b.Key) })
}

// checkTemplates compares what was not compared yet, and leaves templates out of what is wanted when they are unread.
func (s *Syncer) checkTemplates(have *Observed, want *Wanted) *Wanted {
	if s.o.Settings.Templates == nil {
		return want
	}
	if !s.templates.read {
		return want.bare()
	}
	live := map[Key]*Live{}
	for _, l := range have.Live {
		if l.Extra != nil {
			live[l.Key] = l
		}
	}
	for i := range want.Objects {
		if o := &want.Objects[i]; o.Extra != nil && live[o.Key] != nil {
			live[o.Key].Extra.check(o.Extra)
		}
	}
	return want
}

// bare returns what is wanted without the objects from templates.
func (w *Wanted) bare() *Wanted {
	extra := func(o Object) bool { return o.Extra != nil }
	if !slices.ContainsFunc(w.Objects, extra) {
		return w
	}
	out := *w
	out.Objects = slices.DeleteFunc(slices.Clone(w.Objects), extra)
	return &out
}

// load reads all objects with the mark of templates, those that have a name of a template, and the Secrets to copy.
// Secrets are only asked for by name: whoever may list all of them sees everything.
func (st *templateStore) load(ctx context.Context, client dynamic.Interface, own string, t *Templates) error {
	if client == nil {
		return errors.New("there is no client for them")
	}
	live, foreign, secrets := map[Key]*Live{}, map[Key]bool{}, map[string]map[string]any{}
	list := func(kind TemplateKind, o metav1.ListOptions) error {
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
	isSecret := func(k TemplateKind) bool { return k.Kind == "Secret" && k.Group == "" }
	for _, kind := range t.Kinds {
		used := slices.ContainsFunc(t.List, func(x *Template) bool { return x.Kind == kind })
		if !isSecret(kind) {
			if err := list(kind, metav1.ListOptions{LabelSelector: ours + "," + kubename.LabelTemplate}); err != nil && used {
				return err // a kind without a template may be forbidden
			}
		}
	}
	asked := map[string]bool{}
	for _, tpl := range t.List {
		if !asked[tpl.keyName()] {
			asked[tpl.keyName()] = true
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
	st.live, st.foreign, st.secrets, st.read = live, foreign, secrets, true
	return nil
}

// templateLive reads an object into our form.
func templateLive(kind TemplateKind, o *unstructured.Unstructured) (l *Live, ours bool) {
	labels, notes := o.GetLabels(), o.GetAnnotations()
	content := maps.Clone(o.Object)
	content["metadata"] = map[string]any{"labels": anyMap(labels), "annotations": anyMap(notes)}
	delete(content, "status")
	return &Live{
		Object: Object{
			Key:   Key{o.GetNamespace(), KindTemplate, kind.Kind + "/" + o.GetName()},
			Extra: &Extra{Kind: kind, Name: o.GetName(), Hash: notes[kubename.AnnotationTemplate], content: content},
		},
		UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(), Deleting: o.GetDeletionTimestamp() != nil,
	}, labels[kubename.LabelManagedBy] == kubename.ManagedBy && labels[kubename.LabelTemplate] != ""
}

// wrote takes in a write of ours: what it made, or nil.
func (st *templateStore) wrote(k Key, l *Live, hash string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if l == nil {
		delete(st.live, k)
		return
	}
	l.Extra.Verified = hash // what the API server made of it is what it is
	if st.live == nil {
		st.live = map[Key]*Live{}
	}
	st.live[k] = l
}

// writeTemplate creates, updates or deletes an object from a template.
func writeTemplate(ctx context.Context, client dynamic.Interface, c Change, wrote func(Key, *Live, string)) error {
	if client == nil {
		return errors.New("there is no client for templates")
	}
	if c.Action == Delete {
		err := client.Resource(c.Old.Extra.Kind.GVR()).Namespace(c.Key.Namespace).Delete(ctx, c.Old.Extra.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &c.Old.UID, ResourceVersion: &c.Old.ResourceVersion},
		})
		if err == nil && wrote != nil {
			wrote(c.Key, nil, "")
		}
		return err
	}
	e := c.New.Extra
	o := e.render()
	api := client.Resource(e.Kind.GVR()).Namespace(c.Key.Namespace)
	var got *unstructured.Unstructured
	var err error
	if c.Action == Create {
		got, err = api.Create(ctx, o, metav1.CreateOptions{})
	} else {
		// A merge patch leaves alone what others added beside it; fields of ours that are maps are replaced by theirs.
		o.SetUID(c.Old.UID)
		o.SetResourceVersion(c.Old.ResourceVersion)
		var body []byte
		if body, err = json.Marshal(withNulls(o.Object, c.Old.Extra.content)); err != nil {
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

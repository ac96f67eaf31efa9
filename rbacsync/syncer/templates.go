package syncer

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
)

// addTemplates adds the objects from templates to what was observed; it reads them when asked to. When they can't
// be read, they are left out of the round, with a finding.
func (s *Syncer) addTemplates(ctx context.Context, r *Round, have *rbacsync.Observed, read bool) {
	t := s.o.Settings.Templates
	if t == nil {
		return
	}
	st := &s.templates
	if st.Mirror != nil && !st.Waited {
		st.Waited = true
		_ = st.Mirror.Await(ctx, cluster.TemplateSight) // if it takes longer, or is forbidden, they are listed
	}
	if followed := st.Mirror != nil && st.Mirror.IsReady(); read || !st.Read || followed != st.Followed {
		st.Followed = followed
		if err := st.Load(ctx, s.o.Dynamic, s.o.OwnNamespace, t); err != nil {
			st.Read = false
			r.Findings = append(r.Findings, authz.Finding{Code: "templates_unread", Text: "templates are left out of this round: " + err.Error()})
			return
		}
	}
	for _, tpl := range t.List {
		if tpl.CopyFrom != "" && st.Secrets[tpl.CopyFrom] == nil {
			r.Findings = append(r.Findings, authz.Finding{
				Code: "template_secret_missing",
				Text: fmt.Sprintf("the Secret %s, from which the template %s copies, does not exist in namespace %s", tpl.CopyFrom, tpl.KeyName(), s.o.OwnNamespace),
			})
		}
	}
	uids := map[string]types.UID{}
	for _, l := range have.Live {
		if l.Space != nil {
			uids[l.Key.Name] = l.UID
		}
	}
	st.Mu.Lock()
	defer st.Mu.Unlock()
	if st.Followed {
		seen := st.Mirror.Observed(nil)
		for _, l := range seen.Live {
			if uids[l.Key.Namespace] != "" {
				have.Live = append(have.Live, l)
			}
		}
		have.Foreign = maps.Clone(have.Foreign)
		maps.Copy(have.Foreign, seen.Foreign)
	}
	for k, l := range st.Live {
		uid, ok := uids[k.Namespace]
		if !ok || (st.Spaces[k.Namespace] != "" && st.Spaces[k.Namespace] != uid) {
			delete(st.Live, k) // the namespace is gone, or another one
			continue
		}
		have.Live = append(have.Live, l)
	}
	st.Spaces = uids
	if len(st.Foreign) > 0 {
		have.Foreign = maps.Clone(have.Foreign)
		maps.Copy(have.Foreign, st.Foreign)
	}
	slices.SortFunc(have.Live, func(a, b *rbacsync.Live) int { return a.Key.Compare(b.Key) })
}

// checkTemplates compares what was not compared yet, and leaves templates out of what is wanted when they are unread.
func (s *Syncer) checkTemplates(have *rbacsync.Observed, want *rbacsync.Wanted) *rbacsync.Wanted {
	if s.o.Settings.Templates == nil {
		return want
	}
	if !s.templates.Read {
		return want.Bare()
	}
	live := map[rbacsync.Key]*rbacsync.Live{}
	for _, l := range have.Live {
		if l.Extra != nil {
			live[l.Key] = l
		}
	}
	for i := range want.Objects {
		if o := &want.Objects[i]; o.Extra != nil && live[o.Key] != nil {
			live[o.Key].Extra.Check(o.Extra)
		}
	}
	return want
}

// watched completes what was observed, and is wanted, in some namespaces by the objects from templates, as far as they
// are followed; otherwise what is wanted is returned without them.
func (s *Syncer) watched(have *rbacsync.Observed, want *rbacsync.Wanted, spaces map[string]bool) (*rbacsync.Observed, *rbacsync.Wanted) {
	st := &s.templates
	if s.o.Settings.Templates == nil || !st.Followed || !st.Read {
		return have, want.Bare()
	}
	seen := st.Mirror.Observed(spaces)
	uids := map[string]bool{}
	for _, l := range have.Live {
		uids[l.Key.Namespace] = uids[l.Key.Namespace] || l.Space != nil
	}
	out := &rbacsync.Observed{Live: slices.Clone(have.Live), Foreign: maps.Clone(have.Foreign)}
	for _, l := range seen.Live {
		if uids[l.Key.Namespace] {
			out.Live = append(out.Live, l)
		}
	}
	maps.Copy(out.Foreign, seen.Foreign)
	slices.SortFunc(out.Live, func(a, b *rbacsync.Live) int { return a.Key.Compare(b.Key) })
	return out, s.checkTemplates(out, want)
}

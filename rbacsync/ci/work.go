package ci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// work is one look at one namespace, and what it leads to.
type work struct {
	secrets
	delivered int
	handed    []Handover // what was changed in GitLab
	killed    string     // of a forecast: why no token works any more
	changed   bool       // Status has changed
}

// work begins a look at one namespace with what is remembered of it.
func (p *Provisioner) work(n Namespace) *work {
	f, before, lost := p.about(n.Name)
	st := &namespaceState{n: n, next: p.nextLook(n, p.c.Now(), p.c.Recheck), recs: maps.Clone(before.recs), failures: before.failures}
	return &work{secrets: secrets{namespaceState: st, p: p, facts: f, lost: lost}}
}

// do brings the namespace in order.
func (w *work) do(ctx context.Context) error {
	if err := w.load(ctx); err != nil {
		return err
	}
	if w.n.Gone {
		return w.withdraw(ctx)
	}
	if err := w.killLost(ctx); err != nil {
		return err
	}
	if err := w.token(ctx); err != nil {
		return err
	}
	var errs []error
	for _, project := range w.n.Projects {
		d := delivery{work: w, project: project, rec: w.recs[project.ID].clone()}
		errs = append(errs, d.do(ctx))
	}
	if !w.n.Undecided {
		errs = append(errs, w.departed(ctx))
	}
	errs = append(errs, w.retire(ctx), w.save(ctx, nil))
	return errors.Join(errs...)
}

// departed takes back what projects have from here that deploy here no longer, and forgets those that have nothing any more.
func (w *work) departed(ctx context.Context) error {
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(w.recs)) {
		if !w.n.Gone && slices.ContainsFunc(w.n.Projects, func(p Project) bool { return p.ID == id }) {
			continue
		}
		home, there := w.p.deliveredElsewhere(id, w.n.Name)
		if w.facts.id == "" || home != "" && there.Delivery == "" { // what it has from here works until there is something else
			w.by(w.p.c.Now().Add(10 * time.Second))
			continue
		}
		rec := w.recs[id].clone()
		rec.leave(rec.Delivery, rec.Scope)
		// Of a namespace that goes, also where the record is that of a version which knew no explanations: our mark tells.
		if rec.Explained.there() || w.n.Gone && w.p.c.Variables != nil {
			rec.Explained = rec.Explained.leaving()
		}
		if err := w.takeBack(ctx, id, &rec, &there); err != nil {
			errs = append(errs, deliveryFailed("taking CI credentials back from GitLab project %d: %w", id, err))
			w.recs[id] = rec
			continue
		}
		if h := w.departure(id, nil); !h.empty() {
			w.handed = append(w.handed, h)
		}
		delete(w.recs, id)
	}
	return errors.Join(errs...)
}

// takeBack removes what is left of former modes, but for what has been replaced by what the project was given now, and keeps
// in rec what could not be removed.
func (w *work) takeBack(ctx context.Context, project int64, rec, now *record) error {
	claim := w.claim(rec)
	if err := w.unexplain(ctx, project, rec, now); err != nil {
		return err // all else stays, too: it would hide the KUBECONFIG that GitLab makes of a cluster integration
	}
	var errs []error
	var left []former
	for _, f := range rec.Former {
		var keep []string
		if f.Scope == now.Scope && now.Delivery.WritesVariables() {
			keep = slices.Sorted(maps.Keys(now.Sums))
		}
		var err error
		switch {
		case f == former{rbacsync.DeliverCertificate, now.Scope} && now.Delivery == rbacsync.DeliverCertificate: // it is written over
		case f.Delivery == rbacsync.DeliverCertificate && w.p.c.Clusters == nil, f.Delivery.WritesVariables() && w.p.c.Variables == nil:
			err = errNoWriter
		case f.Delivery == rbacsync.DeliverCertificate:
			err = w.p.c.Clusters.Remove(ctx, project, f.Scope, w.facts.cluster, claim)
		case f.Delivery.WritesVariables():
			_, err = w.p.c.Variables.Remove(ctx, project, f.Scope, keep, claim)
		}
		if err != nil {
			left = append(left, f)
			errs = append(errs, fmt.Errorf("taking back what was delivered by %s: %w", f.Delivery, err))
		}
	}
	if rec.Former = left; len(left) == 0 {
		rec.Doubt = nil
	}
	return errors.Join(errs...)
}

// withdraw destroys the token of a namespace that no source should have, then takes everything back. A Secret without a
// token remembers meanwhile what is left in GitLab.
func (w *work) withdraw(ctx context.Context) error {
	w.settledLoss = true
	maps.DeleteFunc(w.recs, func(id int64, _ record) bool { return w.n.Source == authz.ProjectID(id) && !w.n.Exists })
	if w.anchor != nil || hasToken(w.s) {
		if err := w.destroyTokens(ctx, false); err != nil {
			return err
		}
		w.p.c.Logger.InfoContext(ctx, "CI tokens destroyed", "namespace", w.n.Name, "source", w.n.Source.String())
	}
	if len(w.recs) > 0 && w.s == nil {
		if err := w.save(ctx, nil); err != nil {
			return err
		}
	}
	err := w.departed(ctx)
	if len(w.recs) > 0 {
		return errors.Join(err, w.save(ctx, nil))
	}
	return errors.Join(err, w.destroy(ctx, &w.s))
}

// ended returns what is to be remembered after do, which returned err.
func (w *work) ended(ctx context.Context, err error) *namespaceState {
	st := w.namespaceState
	st.uids = sets.New[types.UID]()
	for _, s := range []*corev1.Secret{w.s, w.anchor} {
		if s != nil {
			st.uids.Insert(s.UID)
		}
	}
	if w.s != nil {
		st.sum = sum(string(w.s.Data[keyToken]))
		c, _ := parseClaims(w.s.Data[keyToken])
		st.n.Account = cmp.Or(st.n.Account, c.Kubernetes.Account.UID) // the one that was made just now, or one after it
	}
	st.short = st.life > 0 && st.life < w.p.c.Lifetime*9/10
	if err == nil {
		if st.failures = 0; len(st.findings) > 0 { // it is not in order: somebody may make room, or upgrade GitLab
			w.by(w.p.c.Now().Add(w.p.c.Recheck))
		}
		return st
	}
	code := "ci_token_failed"
	if _, ok := errors.AsType[*deliveryError](err); ok {
		code = "ci_delivery_failed"
	}
	w.p.c.Logger.WarnContext(ctx, "CI credentials not in order", "namespace", st.n.Name, "source", st.n.Source.String(), "error", err)
	for line := range strings.SplitSeq(err.Error(), "\n") {
		st.findings = append(st.findings, authz.Finding{Code: code, Source: st.n.Source, Text: line})
	}
	st.failures++
	st.next = w.p.c.Now().Add(min(time.Second<<min(st.failures, 12), w.p.c.Recheck))
	return st
}

// tokenLives reports, after a look that failed, whether a token that may have to die was not destroyed.
func (w *work) tokenLives() bool {
	return !w.settledLoss || w.n.Gone && (w.anchor != nil || hasToken(w.s))
}

// deliveryError is a failure on GitLab's side.
type deliveryError struct{ error }

func (e *deliveryError) Unwrap() error { return e.error }

func deliveryFailed(format string, args ...any) error {
	return &deliveryError{fmt.Errorf(format, args...)}
}

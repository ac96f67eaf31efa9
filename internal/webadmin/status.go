package webadmin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
)

// endsSoon is as in the alert GlK8sIntegratorExpiry.
const endsSoon = 3 * 24 * time.Hour

// Status implements web.Admin.
func (a *Admin) Status(ctx context.Context) (web.AdminStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out := web.AdminStatus{Ends: a.allEnds()}
	if k, judges := a.o.Keys(); judges {
		out.Keys = web.AdminKeys{Keys: k.Keys, Fetched: k.Fetched, Failures: k.Failures}
	} else {
		out.Keys.None = true
	}
	s, err := status.Read(ctx, a.o.Kube)
	if errors.Is(err, status.ErrNone) {
		out.None = true
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("reading the leader's status: %w", err)
	}
	out.Mode, out.Leader, out.Stale = s.Mode, s.Holder, s.Old(a.o.Now())
	out.Failing, out.Since, out.Written, out.Read, out.Held = s.Failing, s.Since, s.Written, s.Read, s.Held
	r := s.Round
	out.Round = web.AdminRound{Cause: r.Cause, Started: r.Started, Duration: r.Duration, Namespaces: r.Namespaces, Planned: r.Planned, Applied: r.Applied, Failed: r.Failed}
	for _, name := range slices.Sorted(maps.Keys(s.Sources)) {
		out.Sources = append(out.Sources, web.Amount{Name: name, Value: strconv.Itoa(s.Sources[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Staleness)) {
		out.Staleness = append(out.Staleness, web.Amount{Name: name, Value: s.Staleness[name]})
	}
	out.Hooks = web.AdminHooks{None: s.NoHooks, Count: s.Hooks, Median: s.HookMedian, Slowest: s.HookSlowest, Refused: s.HooksRefused}
	out.NoLogins = s.NoLogins
	if s.Activity != nil {
		out.Hooks.Last, out.Login = s.Activity.Hook.At, s.Activity.Login.At
	}
	out.Findings, out.More = a.found(s)
	out.Budget = a.budget(s)
	return out, nil
}

// allEnds returns what ends, the first first.
func (a *Admin) allEnds() []web.AdminEnd {
	var out []web.AdminEnd
	for _, e := range a.o.Ends() {
		out = append(out, web.AdminEnd{What: e.What, At: e.At, Soon: e.At.Sub(a.o.Now()) < endsSoon})
	}
	slices.SortFunc(out, func(x, y web.AdminEnd) int { return cmp.Or(x.At.Compare(y.At), cmp.Compare(x.What, y.What)) })
	return out
}

// found returns the findings with what the pages of docs say of them; and how many more there are, whose texts were not kept.
func (a *Admin) found(s status.Summary) (out []web.AdminFinding, more int) {
	words := a.o.Findings
	counted := map[string]bool{}
	add := func(code, text string) {
		f := web.AdminFinding{Code: code, Text: text, Says: words[code].Says, Do: words[code].Do}
		if !counted[code] {
			counted[code], f.Count = true, s.Findings[code]
		}
		out = append(out, f)
	}
	more = -len(s.Texts)
	for _, text := range s.Texts {
		code, text, _ := strings.Cut(text, ": ")
		add(code, text)
	}
	for _, code := range slices.Sorted(maps.Keys(s.Findings)) {
		more += s.Findings[code]
		if !counted[code] {
			add(code, "")
			more--
		}
	}
	slices.SortStableFunc(out, func(x, y web.AdminFinding) int { return cmp.Compare(x.Code, y.Code) })
	return out, max(0, more)
}

// budget returns the use of GitLab's limits: first of what has one.
func (a *Admin) budget(s status.Summary) []web.AdminBudget {
	kinds := map[string]bool{}
	for kind := range a.o.Limits {
		kinds[kind] = true
	}
	for kind := range s.Requests {
		kinds[kind] = true
	}
	var out []web.AdminBudget
	for kind := range kinds {
		out = append(out, web.AdminBudget{Kind: kind, Requests: s.Requests[kind], Limit: a.o.Limits[kind], Share: s.Budget[kind]})
	}
	slices.SortFunc(out, func(x, y web.AdminBudget) int {
		if (x.Limit > 0) != (y.Limit > 0) {
			return cmp.Compare(y.Limit, x.Limit)
		}
		return cmp.Compare(x.Kind, y.Kind)
	})
	return out
}

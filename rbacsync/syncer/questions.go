package syncer

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Verifier is what a Reader may also be able to do: ask GitLab about single things. Both fail when GitLab might
// only be hiding the thing from us.
type Verifier interface {
	// Exists reports whether GitLab has the source; false is its 404.
	Exists(ctx context.Context, id authz.SourceID) (bool, error)
	// MemberLevel returns the level a person has in a source, 0 for GitLab's 404.
	MemberLevel(ctx context.Context, id authz.SourceID, user int64) (authz.Level, error)
}

const (
	maxQuestions    = 60 // GitLab allows 200 requests a minute for members/all
	questionTimeout = 5 * time.Second
	// moreQuestions is the pause before the next round when GitLab could not be asked about everything in one.
	moreQuestions = 30 * time.Second
)

// settle asks GitLab about what was held, and what is to be deleted, after all else of the round was written. What
// GitLab answers is no inference any more: a second plan goes on with it. It returns what is to be made so now.
func (s *Syncer) settle(ctx context.Context, r *Round, have *rbacsync.Observed, want, plain *rbacsync.Wanted) (*rbacsync.Wanted, error) {
	v, ok := s.o.Reader.(Verifier)
	if !ok || want.Hold != "" || len(r.Report.Deferred) > 0 || ctx.Err() != nil {
		return want, nil
	}
	gone, levels := s.questions(r, have, plain)
	if len(gone)+len(levels) == 0 {
		return want, nil
	}
	b := &s.brakes
	b.gone, b.levels = ask(ctx, v, gone, levels)
	defer func() { b.gone, b.levels = nil, nil }() // an answer counts in its own round only
	if len(b.gone)+len(b.levels) == 0 {
		return want, nil
	}
	again := *plain
	again.Gone, again.Untouchable = b.gone, map[authz.SourceID]string{}
	maps.Copy(again.Untouchable, plain.Untouchable)
	for id, is404 := range b.gone {
		if !is404 {
			again.Untouchable[id] = "GitLab's lists lack it, but GitLab answers for it"
		}
	}
	now := have.With(r.Plan)
	if s.o.Mode == ModeEnforce {
		var err error
		if now, err = s.observe(ctx, nil, r.Snapshot, false); err != nil {
			return want, err
		}
	}
	done, report := r.Plan, r.Report
	r.Findings = append(r.Findings[:r.unplanned], report.Findings...)
	want = s.brake(ctx, r, now, &again)
	err := s.write(ctx, r, want)
	r.Plan = append(done, r.Plan...)
	r.Report.Applied += report.Applied
	r.Report.Failed = append(report.Failed, r.Report.Failed...)
	r.Report.Refused = append(report.Refused, r.Report.Refused...)
	r.Report.Duration += report.Duration
	return want, err
}

// questions lists what GitLab should be asked: in turns, one of each top-level group, and in each of these one of each
// place where somebody is missing, so that nobody's flood delays the others. What was never asked comes first: what
// GitLab has no answer for that settles it must not use up the turns of the rest.
func (s *Syncer) questions(r *Round, have *rbacsync.Observed, want *rbacsync.Wanted) (gone []authz.SourceID, levels []rbacsync.Membership) {
	before := s.brakes.asked
	s.brakes.asked = map[any]int{} // what is settled is forgotten
	open := map[any]bool{}         // to be asked, and not asked yet in this round
	var queues [][]any
	for _, sec := range rbacsync.Sections(r.Held) {
		var queue []any
		queued := map[any]bool{}
		for _, i := range sec.Items {
			if q := question(i, r.Snapshot); q != nil && !queued[q] {
				open[q], queued[q], queue = true, true, append(queue, q)
				s.brakes.asked[q] = before[q]
			}
		}
		queues = append(queues, inTurns(queue, before))
	}
	for more := true; more; {
		more = false
		for n := range queues {
			if len(queues[n]) == 0 || len(gone)+len(levels) == maxQuestions {
				continue
			}
			q := queues[n][0]
			queues[n], more = queues[n][1:], true
			if !open[q] {
				continue // another top-level group asked it
			}
			delete(open, q)
			s.brakes.asked[q]++
			switch q := q.(type) {
			case authz.SourceID:
				gone = append(gone, q)
			case rbacsync.Membership:
				levels = append(levels, q)
			}
		}
	}
	for q := range open {
		r.unasked = r.unasked || s.brakes.asked[q] == 0
	}
	for _, id := range rbacsync.ToDelete(have, want, r.Snapshot) {
		if !slices.Contains(gone, id) && len(gone)+len(levels) < maxQuestions {
			gone = append(gone, id)
		}
	}
	return gone, levels
}

// question returns what GitLab could be asked about something that is held: a SourceID whether it exists, a Membership
// what level it has; nil: nothing.
func question(i rbacsync.Item, snap *authz.Snapshot) any {
	switch {
	case i.Role == "":
		return nil
	case !snap.Contains(i.Source):
		return i.Cause
	case i.Ask == (rbacsync.Membership{}) || i.Ask.User == 0:
		return nil
	}
	return i.Ask
}

// inTurns sorts the questions of one top-level group: those asked least come first, and of these one of each place.
func inTurns(queue []any, asked map[any]int) []any {
	type place struct {
		at    authz.SourceID
		asked int
	}
	turn, turns := map[any]int{}, map[place]int{}
	for _, q := range queue {
		p := place{asked: asked[q]}
		if m, ok := q.(rbacsync.Membership); ok {
			p.at = m.Source
		}
		turn[q] = turns[p]
		turns[p]++
	}
	slices.SortStableFunc(queue, func(a, b any) int { return cmp.Or(cmp.Compare(asked[a], asked[b]), cmp.Compare(turn[a], turn[b])) })
	return queue
}

// ask returns the answers that came in time.
func ask(ctx context.Context, v Verifier, gone []authz.SourceID, levels []rbacsync.Membership) (map[authz.SourceID]bool, map[rbacsync.Membership]authz.Level) {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	var mu sync.Mutex
	is404, level := map[authz.SourceID]bool{}, map[rbacsync.Membership]authz.Level{}
	var g errgroup.Group
	g.SetLimit(4)
	for _, id := range gone {
		g.Go(func() error {
			if exists, err := v.Exists(ctx, id); err == nil {
				mu.Lock()
				is404[id] = !exists
				mu.Unlock()
			}
			return nil
		})
	}
	for _, m := range levels {
		g.Go(func() error {
			if l, err := v.MemberLevel(ctx, m.Source, m.User); err == nil {
				mu.Lock()
				level[m] = l
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // what was not answered stays held
	return is404, level
}

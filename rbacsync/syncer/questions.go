package syncer

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Verifier asks GitLab about single things. Both questions fail when GitLab might only be hiding the thing from us.
type Verifier interface {
	// Exists reports whether GitLab has the source; false is its 404.
	Exists(ctx context.Context, id authz.SourceID) (bool, error)
	// MemberLevel returns the level a person has in a source, 0 for GitLab's 404.
	MemberLevel(ctx context.Context, id authz.SourceID, user int64) (authz.Level, error)
}

const (
	maxQuestions    = 60 // GitLab allows 200 requests a minute for members/all
	questionTimeout = 5 * time.Second
	// moreQuestions is the pause before the next round when GitLab could not be asked about everything in one, or had no answer to
	// something. Then the next pause is twice as long, up to the interval.
	moreQuestions = 30 * time.Second
	// questionsAtOnce are asked at the same time, questionsOfGroup of them of one top-level group.
	questionsAtOnce  = 15
	questionsOfGroup = 3
)

// answers are what GitLab said about single things: whether it has a source no more, and what level somebody has. They count
// in one pass alone.
type answers struct {
	gone   map[authz.SourceID]bool
	levels map[rbacsync.Membership]authz.Level
	missed bool // something was asked that had no answer
}

// query is what GitLab is asked, a SourceID whether it exists and a Membership what level it has, by top-level group: what hangs in one
// of them keeps only the others of that one waiting.
type query [][]any

func (q query) size() (n int) {
	for _, group := range q {
		n += len(group)
	}
	return n
}

func (a answers) empty() bool { return len(a.gone)+len(a.levels) == 0 }

// questioner asks GitLab about what is held and what is to be deleted. What it answers is no inference any more: another pass goes
// on with it.
type questioner struct {
	o        *Options
	answered chan answers
	asking   bool          // beside the passes
	at       time.Time     // when there is more to ask
	pause    time.Duration // before what had no answer is asked again
	asked    map[any]int   // question: how often it was asked
}

func newQuestioner(o *Options) questioner { return questioner{o: o, answered: make(chan answers, 1)} }

// may reports whether there may be something to ask after a pass.
func (a *questioner) may(p *pass) bool {
	return a.o.Questions != nil && p.ended && p.want.Hold == "" && len(p.Report.Deferred) == 0
}

// start asks beside the passes, and calls done when there are answers.
func (a *questioner) start(ctx context.Context, wg *sync.WaitGroup, p *pass, done func()) {
	// What a pass with answers leaves open would be asked without end; it asks only about what is new of GitLab.
	again := p.everything() && p.answers.empty()
	can := !a.asking && a.may(p) && (p.answers.empty() || p.Kind != KindAgain)
	if p.askAgain && (!can || !again) {
		a.later(moreQuestions)
	}
	if !can {
		return
	}
	q := a.questions(p, again)
	if p.unasked {
		a.later(moreQuestions)
	}
	if q.size() == 0 {
		return
	}
	a.asking = true
	wg.Go(func() {
		a.answered <- ask(ctx, a.o.Questions, q) // one is asked at a time
		done()
	})
}

// heard takes in that GitLab was asked.
func (a *questioner) heard(r answers) {
	if a.asking = false; !r.missed {
		a.pause = 0
		return
	}
	a.pause = min(max(2*a.pause, moreQuestions), a.o.Interval)
	a.later(a.pause)
}

// later has what has no answer asked again, after a pause or before.
func (a *questioner) later(pause time.Duration) {
	if at := a.o.Now().Add(wait.Jitter(pause)); a.at.IsZero() || at.Before(a.at) {
		a.at = at
	}
}

// questions lists what GitLab should be asked: in turns, one of each top-level group, and in each of these one of each
// place where somebody is missing, so that nobody's flood delays the others. What was never asked comes first: what GitLab
// has no answer for that settles it must not use up the turns of the rest. Again says that what was asked before is asked
// as well.
func (a *questioner) questions(p *pass, again bool) (out query) {
	before := a.asked
	a.asked = map[any]int{} // what is settled is forgotten
	open := map[any]bool{}  // to be asked, and not asked yet in this round
	var queues [][]any
	for _, sec := range rbacsync.Sections(p.Held) {
		var queue []any
		queued := map[any]bool{}
		for _, i := range sec.Items {
			if q := question(i, p.Snapshot); q != nil && !queued[q] {
				a.asked[q] = before[q]
				if again || before[q] == 0 {
					open[q], queued[q], queue = true, true, append(queue, q)
				}
			}
		}
		queues = append(queues, inTurns(queue, before))
	}
	out = make(query, len(queues), len(queues)+1)
	for more := true; more; {
		more = false
		for n := range queues {
			if len(queues[n]) == 0 || out.size() == maxQuestions {
				continue
			}
			q := queues[n][0]
			queues[n], more = queues[n][1:], true
			if open[q] { // else another top-level group asked it
				delete(open, q)
				a.asked[q]++
				out[n] = append(out[n], q)
			}
		}
	}
	for q := range open {
		p.unasked = p.unasked || a.asked[q] == 0
	}
	return append(out, a.toDelete(p, out))
}

// toDelete lists what of what is to be deleted GitLab should be asked besides.
func (a *questioner) toDelete(p *pass, others query) (list []any) {
	if !p.answers.empty() {
		return nil // this is among them
	}
	asked := map[any]bool{}
	for _, group := range others {
		for _, q := range group {
			asked[q] = true
		}
	}
	for _, id := range p.deletable {
		if !asked[id] && others.size()+len(list) < maxQuestions {
			list = append(list, id)
		}
	}
	return list
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
func ask(ctx context.Context, v Verifier, q query) answers {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	var mu sync.Mutex
	a := answers{gone: map[authz.SourceID]bool{}, levels: map[rbacsync.Membership]authz.Level{}}
	one := func(q any) {
		switch q := q.(type) {
		case authz.SourceID:
			if exists, err := v.Exists(ctx, q); err == nil {
				mu.Lock()
				a.gone[q] = !exists
				mu.Unlock()
			}
		case rbacsync.Membership:
			if l, err := v.MemberLevel(ctx, q.Source, q.User); err == nil {
				mu.Lock()
				a.levels[q] = l
				mu.Unlock()
			}
		}
	}
	all := semaphore.NewWeighted(questionsAtOnce)
	var wg sync.WaitGroup
	for _, group := range q {
		todo := make(chan any, len(group))
		for _, q := range group {
			todo <- q
		}
		close(todo)
		for range min(questionsOfGroup, len(group)) {
			wg.Go(func() {
				for q := range todo {
					if all.Acquire(ctx, 1) != nil {
						return // what was not answered stays held
					}
					one(q)
					all.Release(1)
				}
			})
		}
	}
	wg.Wait()
	a.missed = len(a.gone)+len(a.levels) < q.size()
	return a
}

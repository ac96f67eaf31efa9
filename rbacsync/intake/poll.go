package intake

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/wait"
)

// Poller reads what sends no hook.
type Poller interface {
	// States returns the states of accounts; those that GitLab does not show are missing in it, and those in more are
	// to be asked for again.
	States(ctx context.Context, ids []int64) (states map[int64]authz.UserState, more []int64, err error)
}

const (
	// recently is how long somebody counts as present after they were seen.
	recently = 15 * time.Minute
	// pollBatch is how many accounts are read with one request.
	pollBatch = 100
)

// poller compares the states of accounts with what is known, a hundred users at a time: with every poll those who were seen
// in a token review lately, and then everybody in turn. At most two requests are made per poll. That is the budget; what it
// leaves out is read with the next reading of everything.
type poller struct {
	at      time.Time // of the next one
	pause   time.Duration
	running bool
	checked map[int64]time.Time // when somebody's state was found to be the known one
}

// seen is when the users were looked at who were looked at longest ago: among those who are present, and among all.
type seen struct{ present, all time.Time }

// poll is whom one asks for.
type poll struct {
	batches [][]int64
	present []int64
}

// polled is what one has brought.
type polled struct {
	poll
	states map[int64]authz.UserState // "": GitLab does not show the account
}

func (o *Options) recent() map[int64]time.Time {
	if o.Recent == nil {
		return nil
	}
	return o.Recent()
}

// plan chooses whom the next poll asks for.
func (p *poller) plan(snap *authz.Snapshot, now time.Time, recent map[int64]time.Time) poll {
	var present, rest []int64
	here := map[int64]bool{}
	for id, at := range recent {
		if _, known := snap.Users[id]; known && now.Sub(at) < recently {
			present, here[id] = append(present, id), true
		}
	}
	for id, u := range snap.Users {
		if u.State == authz.StateActive && !here[id] {
			rest = append(rest, id)
		}
	}
	oldest := func(a, b int64) int { return cmp.Or(p.checked[a].Compare(p.checked[b]), cmp.Compare(a, b)) }
	slices.SortFunc(present, oldest)
	slices.SortFunc(rest, oldest)
	out := poll{present: present}
	for _, batch := range [][]int64{present, rest} {
		if batch = batch[:min(len(batch), pollBatch)]; len(batch) > 0 {
			out.batches = append(out.batches, batch)
		}
	}
	return out
}

// ask asks GitLab. What was answered before an error counts.
func (p poll) ask(ctx context.Context, from Poller) (*polled, error) {
	out := &polled{poll: p, states: map[int64]authz.UserState{}}
	for _, batch := range p.batches {
		states, more, err := from.States(ctx, batch)
		if err != nil {
			return out, err
		}
		for _, id := range batch {
			if !slices.Contains(more, id) {
				out.states[id] = states[id]
			}
		}
	}
	return out, nil
}

// endPoll takes in what a poll has brought. A state that is another one counts at once, and the account is read again. It
// counts as looked at only when the known state is GitLab's.
func (i *Intake) endPoll(r *reading) {
	p, now := &i.poller, i.o.Now()
	p.running = false
	if p.pause = i.o.PollEvery; r.err != nil {
		p.pause = min(2*p.pause, max(i.o.PollEvery, time.Minute))
		i.o.Logger.Warn("accounts can't be polled, trying again", "error", r.err)
	}
	p.at = now.Add(wait.Jitter(p.pause))
	changed := map[authz.SourceID]bool{}
	users := i.base.Users
	for id, state := range r.polled.states {
		u, known := i.base.Users[id]
		user := authz.UserID(id)
		switch {
		case !known || max(i.began[user], i.brought[user], i.all) > r.began: // read since
		case u.State == state:
			p.checked[id] = r.at
		case state == "":
			i.queue.add([]authz.SourceID{user}, "poll", i.now.next(), now)
		default:
			if len(changed) == 0 {
				users = maps.Clone(users)
			}
			u.State = state
			users[id], changed[user], i.brought[user] = u, true, r.began
			i.queue.add([]authz.SourceID{user}, "poll", i.now.next(), now)
		}
	}
	maps.DeleteFunc(p.checked, func(id int64, _ time.Time) bool { _, known := i.base.Users[id]; return !known })
	i.seen.Store(p.seen(i.base.Users, r.polled.present, now))
	if len(changed) > 0 {
		base := *i.base
		base.Users, i.base = users, &base
		i.publish(News{Snapshot: i.base, Changed: changed, Causes: r.causes, Began: r.at})
	}
}

func (p *poller) seen(users map[int64]authz.User, present []int64, now time.Time) *seen {
	out := seen{present: now, all: now} // of nobody everything is known
	for _, id := range present {
		out.present = earlier(out.present, p.checked[id])
	}
	for id, u := range users {
		if u.State == authz.StateActive {
			out.all = earlier(out.all, p.checked[id])
		}
	}
	return &out
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Bound returns how long ago the user was looked at who was looked at longest ago, among those who are present and among
// all; never longer ago than the Snapshot was taken.
func (i *Intake) Bound(taken time.Time) (present, all time.Duration) {
	now := i.o.Now()
	s := i.seen.Load()
	if s == nil {
		return now.Sub(taken), now.Sub(taken)
	}
	age := func(at time.Time) time.Duration {
		if at.Before(taken) {
			at = taken
		}
		return now.Sub(at)
	}
	return age(s.present), age(s.all)
}

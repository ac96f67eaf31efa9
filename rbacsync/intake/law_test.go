package intake_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
)

// changing is a GitLab that changes while it is read: a reading meets each thing at another moment between its beginning and
// its end.
type changing struct {
	mu       sync.Mutex
	r        *rand.Rand
	history  []moment
	began    map[authz.SourceID]time.Time // of the reading that began last, of those that have ended
	underWay int
}

type moment struct {
	at   time.Time
	snap *authz.Snapshot
}

func (c *changing) now() *authz.Snapshot { return c.history[len(c.history)-1].snap }

// at returns GitLab as it was at a time.
func (c *changing) at(t time.Time) *authz.Snapshot {
	for i := len(c.history) - 1; i > 0; i-- {
		if !c.history[i].at.After(t) {
			return c.history[i].snap
		}
	}
	return c.history[0].snap
}

func (c *changing) change(edit func(*authz.Snapshot)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := authztest.Clone(c.now())
	edit(next)
	c.history = append(c.history, moment{time.Now(), next})
}

// meet reads some things between began and now.
func (c *changing) meet(out *authz.Snapshot, ids []authz.SourceID, began time.Time) {
	for _, id := range ids {
		when := c.at(began.Add(time.Duration(c.r.Int64N(int64(time.Since(began)) + 1))))
		switch id.Kind {
		case authz.UserSource:
			if u, ok := when.Users[id.ID]; ok {
				out.Users[id.ID] = u
			} else {
				delete(out.Users, id.ID)
			}
		case authz.GroupSource:
			g, old := when.Groups[id.ID], out.Groups[id.ID]
			out.Groups[id.ID] = g
			for pid, p := range out.Projects { // its path is a part of theirs
				if p.Group == id.ID && old.Path != "" && old.Path != g.Path {
					p.Path = pathIn(g, pid)
					out.Projects[pid] = p
				}
			}
		case authz.ProjectSource:
			if p, ok := when.Projects[id.ID]; ok {
				if old, known := out.Projects[id.ID]; known { // as gitlab.Reader does it
					p.Variables = old.Variables
				} else {
					p.Variables = &[]authz.CIVariable{{Key: began.Format(time.RFC3339Nano)}}
				}
				out.Projects[id.ID] = p
			} else {
				delete(out.Projects, id.ID)
			}
		}
		delete(out.Missing, id)
		if c.began[id].Before(began) {
			c.began[id] = began
		}
	}
}

func (c *changing) read(ids func() []authz.SourceID, out *authz.Snapshot, longest time.Duration) *authz.Snapshot {
	c.mu.Lock()
	c.underWay++
	began, takes := time.Now(), time.Duration(c.r.Int64N(int64(longest)))
	c.mu.Unlock()
	time.Sleep(takes)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underWay--
	c.meet(out, ids(), began)
	return out
}

func everything() (ids []authz.SourceID) {
	for i := range int64(things) {
		ids = append(ids, authz.UserID(i+1), authz.GroupID(i+1), authz.ProjectID(i+1))
	}
	return ids
}

func (c *changing) Snapshot(context.Context) (*authz.Snapshot, error) {
	empty := &authz.Snapshot{
		Issuer: "https://gitlab.example.com", Admin: true, Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{},
		Projects: map[int64]authz.Project{}, Missing: map[authz.SourceID]string{},
	}
	empty.Taken = time.Now()
	return c.read(everything, empty, 30*time.Second), nil
}

func (c *changing) Refresh(_ context.Context, base *authz.Snapshot, changed []authz.SourceID) (*authz.Snapshot, error) {
	out := authztest.Clone(base)
	if out.Missing == nil {
		out.Missing = map[authz.SourceID]string{}
	}
	return c.read(func() []authz.SourceID { return changed }, out, 3*time.Second), nil
}

// States tells of all users.
func (c *changing) States(_ context.Context, ids []int64) (map[int64]authz.UserState, []int64, error) {
	out := &authz.Snapshot{Users: map[int64]authz.User{}}
	var users []authz.SourceID
	for _, id := range ids {
		users = append(users, authz.UserID(id))
	}
	c.read(func() []authz.SourceID { return users }, out, time.Second)
	states := map[int64]authz.UserState{}
	for id, u := range out.Users {
		states[id] = u.State
	}
	return states, nil, nil
}

const things = 6

func pathIn(g authz.Group, project int64) string { return fmt.Sprintf("%s/p%d", g.Path, project) }

// randomly changes one thing and returns which.
func (c *changing) randomly(r *rand.Rand, step int) (id authz.SourceID) {
	n := r.Int64N(things) + 1
	row := []authz.Member{{User: r.Int64N(things) + 1, Level: authz.Level(step)}}
	switch r.IntN(5) {
	case 0:
		c.change(func(s *authz.Snapshot) {
			u := s.Users[n]
			u.State = authz.UserState(fmt.Sprint("state ", step))
			s.Users[n], id = u, authz.UserID(n)
		})
	case 1:
		c.change(func(s *authz.Snapshot) {
			g := s.Groups[n]
			g.Members = row
			s.Groups[n], id = g, authz.GroupID(n)
		})
	case 2:
		c.change(func(s *authz.Snapshot) {
			p := s.Projects[n]
			p.ID, p.Members = n, row
			p.Group, p.Path = 1, pathIn(s.Groups[1], n)
			s.Projects[n], id = p, authz.ProjectID(n)
		})
	case 3: // renamed
		c.change(func(s *authz.Snapshot) {
			g := s.Groups[n]
			g.Path = fmt.Sprintf("g%d-%d", n, step)
			s.Groups[n], id = g, authz.GroupID(n)
			for pid, p := range s.Projects {
				if p.Group == n {
					p.Path = pathIn(g, pid)
					s.Projects[pid] = p
				}
			}
		})
	default: // made, moved or deleted
		c.change(func(s *authz.Snapshot) {
			id = authz.ProjectID(n)
			if _, there := s.Projects[n]; there && r.IntN(2) == 0 {
				delete(s.Projects, n)
				return
			}
			in := r.Int64N(things) + 1
			s.Projects[n] = authz.Project{ID: n, Group: in, Path: pathIn(s.Groups[in], n), Members: row}
		})
	}
	return id
}

// TestTheReadingThatBeganLaterCounts is the law of this package: whatever changes in GitLab, is asked for and is read when,
// and in whatever order readings end, nothing that counts as known is older than the beginning of the last reading of it.
// In the end all is as GitLab has it.
func TestTheReadingThatBeganLaterCounts(t *testing.T) {
	t.Parallel()
	checked, missing := 0, 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 106))
			c := &changing{r: rand.New(rand.NewPCG(seed, 107)), began: map[authz.SourceID]time.Time{}}
			first := &authz.Snapshot{Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}}
			for i := range int64(things) {
				first.Users[i+1] = authz.User{ID: i + 1, State: authz.StateActive, Human: true}
				first.Groups[i+1] = authz.Group{ID: i + 1, Path: fmt.Sprint("g", i+1)}
				first.Projects[i+1] = authz.Project{ID: i + 1, Group: i + 1, Path: fmt.Sprintf("g%d/p%d", i+1, i+1)}
			}
			c.history = []moment{{time.Now(), first}}
			in := intake.New(intake.Options{Reader: c, Interval: 2 * time.Minute, Users: c, PollEvery: 7 * time.Second, Now: time.Now})
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { in.Run(ctx) })
			var known *authz.Snapshot
			take := func() {
				synctest.Wait()
				select {
				case n := <-in.News():
					if n.Snapshot != nil {
						known = n.Snapshot
					}
				default:
				}
			}
			for step := range 150 {
				if id := c.randomly(r, step+1); r.IntN(4) > 0 { // else the hook is lost
					in.Add([]authz.SourceID{id}, "hook")
				}
				if r.IntN(20) == 0 {
					in.Add(nil, "everything")
				}
				time.Sleep(time.Duration(r.Int64N(int64(4 * time.Second))))
				take()
				c.mu.Lock()
				if known != nil && c.underWay == 0 {
					n, m := c.verify(t, seed, step, known)
					checked, missing = checked+n, missing+m
				}
				c.mu.Unlock()
			}
			in.Add(nil, "the end")
			time.Sleep(5 * time.Minute)
			take()
			want := authztest.Clone(c.now())
			known = authztest.Clone(known)
			for id, p := range known.Projects {
				p.Variables = nil
				known.Projects[id] = p
			}
			if d := cmp.Diff([]any{want.Users, want.Groups, want.Projects, 0}, []any{known.Users, known.Groups, known.Projects, len(known.Missing)}); d != "" {
				t.Errorf("seed %d, in the end (-GitLab +known):\n%s", seed, d)
			}
			cancel()
			wg.Wait()
		})
	}
	if checked < 5000 || missing*10 > checked {
		t.Errorf("%d things were compared, %d were missing: this shows nothing", checked, missing)
	}
}

// verify compares what is known with what GitLab had since the last reading of each thing began.
func (c *changing) verify(t *testing.T, seed uint64, step int, known *authz.Snapshot) (checked, missing int) {
	t.Helper()
	for _, id := range everything() {
		if known.Missing[id] != "" {
			missing++
			continue
		}
		checked++
		began, found := c.began[id], false
		for i, m := range c.history {
			if i+1 < len(c.history) && !c.history[i+1].at.After(began) {
				continue // it was over when the reading began
			}
			switch id.Kind {
			case authz.UserSource:
				found = found || m.snap.Users[id.ID].State == known.Users[id.ID].State
			case authz.GroupSource:
				found = found || cmp.Equal(m.snap.Groups[id.ID], known.Groups[id.ID])
			case authz.ProjectSource:
				then, now := m.snap.Projects[id.ID], known.Projects[id.ID]
				then.Path, now.Path = "", "" // which is a part of the group's
				if list, read := now.CIVariables(); read && list[0].Key < known.Taken.Format(time.RFC3339Nano) {
					t.Errorf("seed %d, step %d: the variables of %s are those of %s, said to be of %s", seed, step, id, list[0].Key, known.Taken)
				}
				now.Variables = nil
				found = found || cmp.Equal(then, now)
			}
		}
		if !found {
			t.Errorf("seed %d, step %d: %s is known as it was before the last reading of it began, %v ago", seed, step, id, time.Since(began))
		}
	}
	return checked, missing
}

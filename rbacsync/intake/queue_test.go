package intake

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

var day = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func projects(from, n int64) (out []authz.SourceID) {
	for i := range n {
		out = append(out, authz.ProjectID(from+i))
	}
	return out
}

// byHundreds is a GitLab in which project 142 is in group 1.
func byHundreds(id authz.SourceID) authz.SourceID { return authz.GroupID(id.ID / 100) }

// readAt says that these were read at a stamp, and nothing else ever.
func readAt(at stamp, ids ...authz.SourceID) func(authz.SourceID) stamp {
	return func(id authz.SourceID) stamp {
		if slices.Contains(ids, id) {
			return at
		}
		return 0
	}
}

func TestTurns(t *testing.T) {
	t.Parallel()
	q := newQueue(day, time.Hour)
	q.add(projects(100, 60), "many", 1, day)
	q.add([]authz.SourceID{authz.ProjectID(201)}, "calm", 2, day)
	q.add([]authz.SourceID{authz.UserID(7), authz.UserID(3)}, "blocked", 3, day)
	ids, causes := q.take(day, byHundreds)
	want := append([]authz.SourceID{authz.UserID(3), authz.UserID(7)}, append(projects(100, 17), authz.ProjectID(201))...)
	if d := cmp.Diff(want, ids); d != "" {
		t.Errorf("the first reading (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"many", "calm", "blocked"}, causes); d != "" {
		t.Errorf("causes (-want +got):\n%s", d)
	}
	read := slices.Clone(ids)
	if q.settle(readAt(4, read...), 0); len(q.items) != 43 {
		t.Errorf("%d are left, want 43", len(q.items))
	}
	q.add(projects(90, 5), "later", 5, day) // smaller numbers come no earlier
	if ids, _ := q.take(day, func(authz.SourceID) authz.SourceID { return authz.GroupID(1) }); slices.Contains(ids, authz.ProjectID(90)) || len(ids) != maxSingle {
		t.Errorf("then comes %v", ids)
	}
}

// TestWhatHasFailedIsReadApart: it may hang again. It has its turns all the same.
func TestWhatHasFailedIsReadApart(t *testing.T) {
	t.Parallel()
	q := newQueue(day, time.Hour)
	hanging := projects(100, 30)
	q.add(hanging, "hook", 1, day)
	q.failed(hanging, []string{"hook"}, day)
	if at := q.nextRetry(); at.Before(day.Add(900*time.Millisecond)) || at.After(day.Add(1100*time.Millisecond)) {
		t.Errorf("tried again after %v", at.Sub(day))
	}
	now := day.Add(time.Minute)
	for round := range 6 {
		q.add(projects(500, 3), "hook", stamp(10+round), now)
		ids, causes := q.take(now, byHundreds)
		failed := slices.ContainsFunc(ids, func(id authz.SourceID) bool { return id.ID < 500 })
		switch mixed := failed && slices.ContainsFunc(ids, func(id authz.SourceID) bool { return id.ID >= 500 }); {
		case mixed:
			t.Errorf("round %d reads %v together", round, ids)
		case failed != (round%2 == 0):
			t.Errorf("round %d reads %v", round, ids)
		case failed && (len(ids) > maxRetried || !slices.Equal(causes, []string{"hook"})):
			t.Errorf("round %d tries %d again, causes %q", round, len(ids), causes)
		case failed:
			q.failed(ids, causes, now)
		}
	}
	pauses := []time.Duration{}
	one := q.items[authz.ProjectID(100)]
	for range 10 {
		q.failed([]authz.SourceID{authz.ProjectID(100)}, nil, now)
		pauses = append(pauses, one.pause)
	}
	if !slices.IsSorted(pauses) || pauses[9] != time.Minute {
		t.Errorf("pauses %v", pauses)
	}
	q.add([]authz.SourceID{authz.ProjectID(100)}, "hook", 99, now)
	if soon := one.at.Sub(now); soon > askedAgain {
		t.Errorf("asked for again, it waits for %v", soon)
	}
}

// TestOnlyALaterReadingSettles: what was asked for while a reading was under way is read again.
func TestOnlyALaterReadingSettles(t *testing.T) {
	t.Parallel()
	one, other := authz.ProjectID(1), authz.ProjectID(2)
	ticket := func(key string, changed ...authz.SourceID) Ticket { return Ticket{Key: key, Changed: changed} }
	for _, tt := range []struct {
		name string
		read func(authz.SourceID) stamp
		all  stamp
		done []string
		left int
	}{
		{"nothing", readAt(0), 0, nil, 2},
		{"one of both", readAt(9, one), 0, []string{"one"}, 1},
		{"begun before", readAt(5, one, other), 5, nil, 2},
		{"both", readAt(9, one, other), 0, []string{"one", "two"}, 0},
		{"everything", readAt(9, one, other), 9, []string{"all", "one", "two"}, 0},
		{"everything but one", readAt(9, one), 9, []string{"all", "one"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			q := newQueue(day, time.Hour)
			q.addTickets([]Ticket{ticket("one", one), ticket("two", one, other), ticket("all")}, 5, day)
			var done []string
			for _, x := range q.settle(tt.read, tt.all) {
				done = append(done, x.Key)
			}
			if slices.Sort(done); !slices.Equal(done, tt.done) || len(q.items) != tt.left {
				t.Errorf("done %v, %d left; want %v, %d", done, len(q.items), tt.done, tt.left)
			}
		})
	}
}

// TestTooMuchIsLeftToAReadingOfEverything: as soon as that takes less time. Users stay: a hundred cost one request.
func TestTooMuchIsLeftToAReadingOfEverything(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		waiting int64
		took    time.Duration
		failed  bool
		left    bool
	}{
		{100, 0, false, false},
		{101, 0, false, true},
		{180, 20 * time.Second, false, false},
		{181, 20 * time.Second, false, true},
		{500, time.Hour, false, false},
		{501, time.Hour, false, true},
		{500, time.Second, true, false},
		{501, time.Second, true, true},
	} {
		t.Run(fmt.Sprint(tt.waiting, tt.took, tt.failed), func(t *testing.T) {
			t.Parallel()
			q := newQueue(day, time.Hour)
			q.beginAll()
			var err error
			if tt.failed {
				err = errNothing
			}
			q.endedAll(day, tt.took, nil, err)
			q.add(projects(1, tt.waiting), "hook", 1, day)
			q.add([]authz.SourceID{authz.UserID(3)}, "hook", 1, day)
			now := day.Add(time.Minute)
			if all := q.dueAll(now, 2); all != (tt.left || tt.failed) {
				t.Errorf("everything is due: %v", all)
			}
			ids, _ := q.take(now, byHundreds)
			if left := len(ids) == 1 && ids[0] == authz.UserID(3); left != tt.left {
				t.Errorf("read one by one: %v", ids)
			}
		})
	}
}

// TestAPathIsNoReading: a group that was renamed has other paths below it. What was asked for there is still to be read.
func TestAPathIsNoReading(t *testing.T) {
	t.Parallel()
	at := func(path string) *authz.Snapshot {
		return &authz.Snapshot{
			Groups:   map[int64]authz.Group{1: {ID: 1, Path: path}},
			Projects: map[int64]authz.Project{2: {ID: 2, Group: 1, Path: path + "/p"}},
		}
	}
	i := New(Options{})
	i.queue, i.began, i.brought = newQueue(day, time.Hour), map[authz.SourceID]stamp{}, map[authz.SourceID]stamp{}
	i.queue.add([]authz.SourceID{authz.GroupID(1), authz.ProjectID(2)}, "hook", 5, day)
	i.base = at("renamed")
	i.note(&reading{ids: []authz.SourceID{authz.GroupID(1)}, began: 6, snap: i.base}, at("old"))
	i.queue.settle(i.readSince, 0)
	if _, waits := i.queue.items[authz.ProjectID(2)]; !waits || len(i.queue.items) != 1 {
		t.Errorf("still to be read: %v, want the project alone", i.queue.items)
	}
}

// TestNoTicketIsLost: of each key the last ticket of either kind is done when it was read, in whatever order they came. So of what
// the inbox can have of a key, the value of another process or one of this one, none stays; and never more than two wait.
func TestNoTicketIsLost(t *testing.T) {
	t.Parallel()
	id := authz.ProjectID(42)
	for order := range 1 << 6 {
		q := newQueue(day, time.Hour)
		last := map[bool]string{}
		for i := range 6 {
			tk := Ticket{Key: id.Label(), Value: fmt.Sprint(i), Changed: []authz.SourceID{id}, Offered: order>>i&1 == 1}
			last[tk.Offered] = tk.Value
			q.addTickets([]Ticket{tk}, stamp(i+1), day)
			if len(q.tickets) > 2 {
				t.Fatalf("%d tickets of one key wait", len(q.tickets))
			}
		}
		got := map[bool]string{}
		for _, tk := range q.settle(readAt(10, id), 0) {
			got[tk.Offered] = tk.Value
		}
		if d := cmp.Diff(last, got); d != "" {
			t.Errorf("order %b: done (-want +got):\n%s", order, d)
		}
	}
}

// TestOnlyTheClockIsPutOff: a periodic reading of everything can be put off, by one interval. The first one is not, nor one that was
// asked for or has failed.
func TestOnlyTheClockIsPutOff(t *testing.T) {
	t.Parallel()
	q := newQueue(day, time.Minute)
	if q.later(day); !q.dueAll(day, 1) {
		t.Error("the first one was put off")
	}
	q.beginAll()
	q.endedAll(day, time.Second, nil, nil)
	due, now := q.all.at, q.all.at
	for ; now.Before(due.Add(q.interval)); now = now.Add(700 * time.Millisecond) {
		if q.later(now); q.dueAll(now, 2) {
			t.Fatalf("due %s after its time", now.Sub(due))
		}
		if next := q.nextAll(); !next.After(now) || next.After(now.Add(laterAgain)) {
			t.Fatalf("%s after its time: asked again after %s", now.Sub(due), next.Sub(now))
		}
	}
	if q.later(now); !q.dueAll(now, 3) {
		t.Errorf("not due %s after its time", now.Sub(due))
	}
	q.endedAll(now, time.Second, nil, nil)
	q.askAll("sync", 4)
	if q.later(now); !q.dueAll(now, 5) {
		t.Error("one that was asked for was put off")
	}
	q.beginAll()
	q.endedAll(now, time.Second, nil, errNothing)
	now = now.Add(time.Minute)
	if q.later(now); !q.dueAll(now, 6) {
		t.Error("one that has failed was put off")
	}
}

package accounts

import (
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

var day = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// snapshotOf has active users of these ids, one group 7 and in it project 42.
func snapshotOf(after time.Duration, group []authz.Member, project []authz.Member, users ...int64) *authz.Snapshot {
	s := &authz.Snapshot{
		Issuer: "https://gitlab.example.com", Taken: day.Add(after), Users: map[int64]authz.User{}, Missing: map[authz.SourceID]string{},
		Groups:   map[int64]authz.Group{7: {ID: 7, Path: "haw", Members: group}},
		Projects: map[int64]authz.Project{42: {ID: 42, Group: 7, Path: "haw/world", Members: project}},
	}
	for _, id := range users {
		s.Users[id] = authz.User{ID: id, Username: "u", State: authz.StateActive, Human: true}
	}
	return s
}

// book is a Directory, and the Knowledge that it answers from.
type book struct {
	*Knowledge
	*Directory
}

func bookOf(r Rules, o Options) book {
	k := NewKnowledge(r, func() time.Time { return day })
	return book{k, New(k, o)}
}

func bookWith(t *testing.T, r Rules) book {
	t.Helper()
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}})
	if err != nil {
		t.Fatal(err)
	}
	r.Policy = policy
	return bookOf(r, Options{})
}

func TestAccountStates(t *testing.T) {
	p := bookWith(t, Rules{})
	want := func(step string, id int64, state string) {
		t.Helper()
		if got, known := p.UserState(id); got != state || known != (state != "") {
			t.Errorf("%s: user %d is %q (known %t), want %q", step, id, got, known, state)
		}
	}
	want("nothing read", 1, "")
	if err := p.Ready(); err != nil {
		t.Errorf("without a condition: %v", err)
	}
	first := snapshotOf(0, nil, nil, 1, 2, 3, 4)
	blocked := first.Users[2]
	blocked.State = "blocked"
	first.Users[2] = blocked
	p.Learn(first)
	want("first", 1, "active")
	want("first", 2, "blocked")
	want("first, and nobody of that id", 9, authn.StateDeleted)

	half := snapshotOf(time.Minute, nil, nil, 1)
	half.MissingAll = "GitLab went away"
	p.Learn(half)
	want("half read: what was known stays", 2, "blocked")
	want("half read: absence means nothing", 3, "active")
	want("half read: nor does it make somebody", 9, authn.StateDeleted)

	complete := snapshotOf(2*time.Minute, nil, nil, 1, 2)
	complete.Missing[authz.UserID(4)] = "502"
	p.Learn(complete)
	want("complete", 3, "deleted")
	want("complete, but this one unread", 4, "active")

	p.Learn(first)
	want("an older reading arrives late", 3, "deleted")
	p.Learn(snapshotOf(3*time.Minute, nil, nil, 1))
	want("gone again", 4, "deleted")
	want("still gone", 3, "deleted")
	p.Learn(snapshotOf(4*time.Minute, nil, nil, 1, 3))
	want("back after all", 3, "active")
	unread := snapshotOf(5*time.Minute, nil, nil, 1)
	unread.Missing[authz.UserID(3)], unread.Missing[authz.UserID(9)] = "502", "502"
	p.Learn(unread)
	want("unread: what was known stays", 3, "active")
	want("unread: who did not exist still does not", 9, authn.StateDeleted)
}

// TestAccountsOfNobody: once GitLab was read, whoever is no person is refused, unless bots have rights here; a state that
// is not active counts first, because such an account starts no jobs either.
func TestAccountsOfNobody(t *testing.T) {
	s := snapshotOf(0, nil, nil, 1)
	s.Users[2] = authz.User{ID: 2, Username: "service_account_1", State: authz.StateActive}
	s.Users[3] = authz.User{ID: 3, Username: "project_1_bot", State: "blocked"}
	s.Users[4] = authz.User{ID: 4, Username: "half"}
	s.Users[5] = authz.User{ID: 5, Username: "unread", State: authz.StateActive}
	s.Missing[authz.UserID(4)], s.Missing[authz.UserID(5)] = "no state", "not known to be a person"
	for _, bots := range []bool{false, true} {
		policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Bots: bots})
		if err != nil {
			t.Fatal(err)
		}
		p := bookOf(Rules{Policy: policy}, Options{})
		if _, known := p.UserState(2); known {
			t.Error("known before GitLab was read")
		}
		p.Learn(s)
		want := map[int64]string{1: "active", 2: authn.StateNotHuman, 3: "blocked", 4: "", 5: "active", 6: authn.StateDeleted}
		if bots {
			want[2] = "active"
		}
		for id, state := range want {
			if got, known := p.UserState(id); got != state || known != (state != "") {
				t.Errorf("bots %t: user %d is %q (known %t), want %q", bots, id, got, known, state)
			}
		}
	}
}

func TestAdmissionByRightsAndGroups(t *testing.T) {
	yesterday := authz.Date{Year: 2026, Month: 11, Day: 21}
	group := []authz.Member{{User: 1, Level: authz.Guest}, {User: 2, Level: authz.Developer, Expires: yesterday}}
	project := []authz.Member{{User: 3, Level: authz.Developer}, {User: 4, Level: authz.Guest}}
	for name, tc := range map[string]struct {
		rules Rules
		want  []int64
	}{
		"rights":        {Rules{MappedRight: true}, []int64{3}},
		"group":         {Rules{Groups: []int64{7}}, []int64{1}},
		"either":        {Rules{MappedRight: true, Groups: []int64{7}}, []int64{1, 3}},
		"no such group": {Rules{Groups: []int64{8}}, nil},
	} {
		p := bookWith(t, tc.rules)
		if _, known := p.Admitted(3); known || p.Ready() == nil {
			t.Errorf("%s: decided before GitLab was read", name)
		}
		broken := snapshotOf(0, nil, nil)
		broken.MissingAll = "502"
		p.Learn(broken)
		if _, known := p.Admitted(3); known || p.Ready() == nil {
			t.Errorf("%s: decided on a reading that failed", name)
		}
		check := func(step string, want []int64) {
			t.Helper()
			for id := range int64(6) {
				in := false
				for _, w := range want {
					in = in || w == id
				}
				if got, known := p.Admitted(id); got != in || !known {
					t.Errorf("%s, %s: user %d admitted %t (known %t), want %t", name, step, id, got, known, in)
				}
			}
		}
		p.Learn(snapshotOf(time.Minute, group, project, 1, 2, 3, 4))
		check("complete", tc.want)
		if err := p.Ready(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		p.Learn(func() *authz.Snapshot {
			s := snapshotOf(2*time.Minute, nil, nil, 1, 2, 3, 4)
			s.Missing[authz.GroupID(7)] = "502"
			return s
		}())
		check("group unread: nobody loses", tc.want)
		p.Learn(snapshotOf(3*time.Minute, nil, nil, 1, 2, 3, 4))
		check("removed", nil)
	}
}

// TestStateIsSeenBeforeTheRoundEnds: a published round counts at the next review.
func TestStateIsSeenBeforeTheRoundEnds(t *testing.T) {
	published := snapshotOf(0, nil, nil, 1)
	p := bookWith(t, Rules{})
	p.Directory = New(p.Knowledge, Options{Published: func() *authz.Snapshot { return published }})
	if got, _ := p.UserState(1); got != "active" {
		t.Fatalf("got %q", got)
	}
	read := snapshotOf(0, nil, nil, 1) // a partial reading: Taken stays
	read.Users[1] = authz.User{ID: 1, State: "blocked"}
	p.Learn(read) // Kubernetes is away: the round is not published
	if got, _ := p.UserState(1); got != "blocked" {
		t.Errorf("got %q", got)
	}
}

// TestAClockThatIsBehind: the leader before had a clock that was ahead, or the cluster was restored from a backup. What was taken
// earlier is passed over, but not for ever; and what this process has read itself counts at once.
func TestAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	blocked := func(after time.Duration) *authz.Snapshot {
		s := snapshotOf(after, nil, nil, 1, 2)
		u := s.Users[2]
		u.State = "blocked"
		s.Users[2] = u
		return s
	}
	for name, c := range map[string]struct {
		learn func(k *Knowledge)
		want  string
	}{
		"a backup, however often it is seen": {func(k *Knowledge) { k.Learn(blocked(time.Minute)); k.Learn(blocked(time.Minute)) }, "active"},
		"somebody who goes on reading":       {func(k *Knowledge) { k.Learn(blocked(time.Minute)); k.Learn(blocked(2 * time.Minute)) }, "blocked"},
		"a backup, and then what is newer": {func(k *Knowledge) {
			k.Learn(blocked(time.Minute))
			k.Learn(snapshotOf(2*time.Hour, nil, nil, 1, 2))
			k.Learn(blocked(2 * time.Minute))
		}, "active"},
		"what was read here": {func(k *Knowledge) { k.LearnOwn(blocked(time.Minute)) }, "blocked"},
	} {
		k := NewKnowledge(Rules{}, time.Now)
		k.Learn(snapshotOf(time.Hour, nil, nil, 1, 2))
		c.learn(k)
		if state, _ := New(k, Options{}).UserState(2); state != c.want {
			t.Errorf("%s: user 2 is %q, want %q", name, state, c.want)
		}
	}
}

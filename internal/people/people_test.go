package people_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// organisation makes a random GitLab in which each path and user name is known by its number; all numbers are raised by offset.
func organisation(r *rand.Rand, offset int64) *authz.Snapshot {
	from := authztest.Snapshot(r)
	s := &authz.Snapshot{
		Issuer: "https://gitlab.example.com", Taken: now, Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{},
		Projects: map[int64]authz.Project{}, Missing: map[authz.SourceID]string{},
	}
	shift := func(id int64) int64 {
		if id == 0 {
			return 0
		}
		return id + offset
	}
	members := func(list []authz.Member) (out []authz.Member) {
		for _, m := range list {
			m.User = shift(m.User)
			m.Expires = []authz.Date{{}, {}, {Year: 2026, Month: 11, Day: 20}, {Year: 2026, Month: 12, Day: 24}}[r.IntN(4)]
			out = append(out, m)
		}
		return out
	}
	links := func(list []authz.Link) (out []authz.Link) {
		for _, l := range list {
			l.Group = shift(l.Group)
			out = append(out, l)
		}
		return out
	}
	for id, u := range from.Users {
		u.ID = shift(id)
		u.Username, u.Name = fmt.Sprintf("usr-%d-q", u.ID), fmt.Sprintf("The usr-%d-q", u.ID)
		s.Users[u.ID] = u
	}
	for id, g := range from.Groups {
		g.ID, g.Parent, g.Members, g.Links = shift(id), shift(g.Parent), members(g.Members), links(g.Links)
		g.Path = fmt.Sprintf("grp-%d-q", g.ID)
		s.Groups[g.ID] = g
	}
	for id, p := range from.Projects {
		p.ID, p.Group, p.Owner, p.Members, p.Links = shift(id), shift(p.Group), shift(p.Owner), members(p.Members), links(p.Links)
		p.Path, p.Archived = fmt.Sprintf("prj-%d-q", p.ID), r.IntN(10) == 0
		s.Projects[p.ID] = p
	}
	return s
}

func policy(t testing.TB) authz.Policy {
	t.Helper()
	p, err := authz.NewPolicy(authz.PolicyConfig{
		Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource, authz.UserSource},
		Extra: []authz.ExtraRole{
			{Source: authz.GroupID(1), Below: true, ClusterRole: "more", Group: 3},
			{Source: authz.GroupID(2), Below: true, ClusterRole: "edit", Levels: []authz.Level{authz.Guest}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// viewOf is what is known after a round. Of some sources the cluster lacks all.
func viewOf(t testing.TB, s *authz.Snapshot) authz.View {
	t.Helper()
	p := policy(t)
	names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
	gaps := map[authz.SourceID]authz.Gap{}
	for id := range names {
		if id.ID%7 == 0 {
			gaps[id] = authz.Gap{All: authz.AbsentHeld}
		}
	}
	read := []string{"get", "list"}
	return authz.NewView(s, p, names).WithGaps(gaps).WithRules(map[string][]authz.Rule{
		"view": {{Verbs: read, Groups: []string{""}, Resources: []string{"pods"}}}, "more": {},
		"edit": {{Verbs: append(read, "delete"), Groups: []string{""}, Resources: []string{"pods"}}},
	})
}

func serviceOf(v authz.View) *people.Service {
	return people.New(people.Options{
		View: func() (authz.View, bool) { return v, v.Snapshot != nil }, GitLabURL: "https://gitlab.example.com", Now: func() time.Time { return now },
		CI: func(v authz.View, project int64) (webapi.CI, bool) {
			p, ok := v.Snapshot.Projects[project]
			return webapi.CI{Project: project, Path: p.Path, Outcome: "delivered"}, ok
		},
		Changes: func(_ context.Context, user int64, _ time.Time) ([]people.Changed, error) {
			return []people.Changed{
				{Change: webapi.Change{At: now, Namespace: "b", Role: strconv.FormatInt(user, 10)}},
				{Change: webapi.Change{At: now.Add(time.Hour), Namespace: "a"}},
				{Change: webapi.Change{At: now, Namespace: "a"}},
			}, nil
		},
	})
}

// all is everything that somebody can be told, with questions about every namespace and project there is.
type all struct {
	Identity webapi.Identity
	List     webapi.MyNamespaces
	Can      map[string]webapi.Can
	CI       map[string]webapi.CI
}

func ask(t *testing.T, s *people.Service, v authz.View, user int64) all {
	t.Helper()
	out := all{Identity: s.Identity(user), Can: map[string]webapi.Can{}, CI: map[string]webapi.CI{}}
	var err error
	if out.List, err = s.Namespaces(user, people.Filter{}); err != nil {
		t.Fatal(err)
	}
	for _, ns := range append([]string{"", "no-such"}, slices.Collect(names(v))...) {
		for _, verb := range []string{"list", "delete"} {
			a, err := s.Can(user, authz.Question{Namespace: ns, Verb: verb, Resource: "pods"})
			if err != nil {
				t.Fatal(err)
			}
			out.Can[ns+" "+verb] = a
		}
	}
	for id, p := range v.Snapshot.Projects {
		for _, name := range []string{strconv.FormatInt(id, 10), strings.ToUpper(p.Path)} {
			a, err := s.CI(user, name)
			level := authz.NewResolver(v.Snapshot, now).Members(authz.ProjectID(id)).Level(user)
			switch {
			case level >= authz.Developer && err != nil:
				t.Fatalf("user %d is %s in project %s and hears of its CI: %v", user, level, name, err)
			case level < authz.Developer && !errors.Is(err, people.ErrNoProject):
				t.Fatalf("user %d is %s in project %s and hears of its CI: %+v, %v", user, level, name, a, err)
			case err == nil:
				out.CI[name] = a
			}
		}
	}
	if _, err := s.CI(user, "no/such"); !errors.Is(err, people.ErrNoProject) {
		t.Fatal(err)
	}
	return out
}

func names(v authz.View) func(func(string) bool) {
	return func(yield func(string) bool) {
		for ns := range v.Source {
			if !yield(ns) {
				return
			}
		}
	}
}

var named = regexp.MustCompile(`(grp|prj|usr)-(\d+)-q`)

// TestNothingOfOthers is the law of what people are told: paths are of what they are members of, people are themselves or members of
// what they are members of, and namespaces are those in which they have a right, or which they named.
func TestNothingOfOthers(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	for seed := range uint64(30) {
		v := viewOf(t, organisation(rand.New(rand.NewPCG(seed, 14)), 0))
		s := serviceOf(v)
		for user := int64(1); user <= 11; user++ { // 11 is nobody
			a := ask(t, s, v, user)
			r := authz.NewResolver(v.Snapshot, now)
			member := func(id authz.SourceID) bool { _, ok := r.Members(id).Access(user); return ok }
			own := map[string]bool{}
			for i, n := range a.List.Namespaces {
				own[n.Name] = true
				if n.Source == "" {
					seen["by configuration"]++
				}
				a.List.Namespaces[i].Name = "" // a right may come from the configuration alone
			}
			for i := range a.List.Namespaces {
				check(t, seed, user, a.List.Namespaces[i], member, nil)
			}
			check(t, seed, user, a.CI, member, nil)
			for q, can := range a.Can {
				ns, _, _ := strings.Cut(q, " ")
				text := can
				text.Reason = strings.ReplaceAll(text.Reason, strconv.Quote(ns), "")
				for name := range own { // who asks about the whole cluster is told all of theirs
					if ns == "" {
						text.Reason = strings.ReplaceAll(text.Reason, name, "")
					}
				}
				check(t, seed, user, text, member, func(other int64) bool {
					_, ok := r.Members(v.Source[ns]).Access(other)
					return ok && member(v.Source[ns])
				})
				seen["asked "+can.Allowed]++
				seen["helpers"] += len(can.Ask)
			}
		}
	}
	for _, what := range []string{"by configuration", "asked yes", "asked no", "asked unknown", "helpers"} {
		if seen[what] < 20 && what != "asked unknown" {
			t.Errorf("%s: only %d times", what, seen[what])
		}
	}
}

func check(t *testing.T, seed uint64, user int64, told any, member func(authz.SourceID) bool, knows func(other int64) bool) {
	t.Helper()
	text, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range named.FindAllStringSubmatch(string(text), -1) {
		id, _ := strconv.ParseInt(m[2], 10, 64)
		ok := false
		switch m[1] {
		case "grp":
			ok = member(authz.GroupID(id))
		case "prj":
			ok = member(authz.ProjectID(id))
		case "usr":
			ok = id == user || knows != nil && knows(id)
		}
		if !ok {
			t.Fatalf("seed %d: user %d hears of %s in %s", seed, user, m[0], text)
		}
	}
}

// TestTwoOrganisations: what somebody is told does not change by whatever else the GitLab has.
func TestTwoOrganisations(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		alone := organisation(rand.New(rand.NewPCG(seed, 15)), 0)
		both, other := authztest.Clone(alone), organisation(rand.New(rand.NewPCG(seed, 16)), 1000)
		maps.Copy(both.Users, other.Users)
		maps.Copy(both.Groups, other.Groups)
		maps.Copy(both.Projects, other.Projects)
		va, vb := viewOf(t, alone), viewOf(t, both)
		sa, sb := serviceOf(va), serviceOf(vb)
		for user := int64(1); user <= 10; user++ {
			want, got := ask(t, sa, va, user), ask(t, sb, vb, user)
			for q := range got.Can {
				if _, there := want.Can[q]; !there { // a namespace of the other one: as one that does not exist
					ns, verb, _ := strings.Cut(q, " ")
					a := want.Can["no-such "+verb]
					a.Reason = strings.ReplaceAll(a.Reason, "no-such", ns)
					want.Can[q] = a
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("seed %d: user %d (-alone +beside another one):\n%s", seed, user, d)
			}
		}
	}
}

// TestNamespacesAreRights: the list is what View.Rights says, and pages and searches are parts of it.
func TestNamespacesAreRights(t *testing.T) {
	t.Parallel()
	total, ends, absent := 0, 0, 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 17))
		v := viewOf(t, organisation(r, 0))
		s := serviceOf(v)
		for user := int64(1); user <= 10; user++ {
			list, err := s.Namespaces(user, people.Filter{})
			if err != nil || list.Total != len(list.Namespaces) || list.Namespaces == nil || !list.AsOf.Equal(now) || list.User.ID != user {
				t.Fatalf("%+v, %v", list, err)
			}
			var got []authz.Right
			for _, n := range list.Namespaces {
				right := authz.Right{Namespace: n.Name, Source: v.Source[n.Name], ClusterRoles: n.Roles, Lacks: n.Lacks, Absent: authz.Absence(n.State)}
				got = append(got, right)
				trail, member := v.Trail(user, right.Source, now)
				if member != (n.Source != "") || member && (n.Reason != authz.ToUser(trail.Text) || n.URL != "https://gitlab.example.com/"+trail.Path || n.Level != trail.Level.String()) {
					t.Fatalf("%+v, and the trail is %+v", n, trail)
				}
				if (n.State == "") != (n.Why == "") || (n.Until != nil) != (member && !trail.Until.IsZero()) {
					t.Fatalf("%+v", n)
				}
				if n.Until != nil {
					ends++
				}
				if n.State != "" {
					absent++
				}
				if (n.CI != nil) != (right.Source.Kind == authz.ProjectSource && trail.Level >= authz.Developer) {
					t.Fatalf("%s of a %s has %+v", n.Name, trail.Level, n.CI)
				}
			}
			if d := cmp.Diff(v.Rights(user, now), got); d != "" {
				t.Fatalf("seed %d: user %d (-authz +told):\n%s", seed, user, d)
			}
			var pages []webapi.Namespace
			for offset := 0; offset < list.Total; offset += 3 {
				page, err := s.Namespaces(user, people.Filter{Offset: offset, Limit: 3})
				if err != nil || page.Total != list.Total {
					t.Fatal(page, err)
				}
				pages = append(pages, page.Namespaces...)
			}
			if len(pages) != list.Total || list.Total > 0 && !cmp.Equal(pages, list.Namespaces) {
				t.Fatalf("the pages have %v, and not %v", pages, list.Namespaces)
			}
			search := fmt.Sprintf("PRJ %d", r.IntN(30))
			found, _ := s.Namespaces(user, people.Filter{Search: search})
			want := slices.DeleteFunc(slices.Clone(list.Namespaces), func(n webapi.Namespace) bool {
				has := func(w string) bool { return strings.Contains(n.Name, w) || strings.Contains(n.Path, w) }
				return !has("prj") || !has(strings.TrimPrefix(search, "PRJ "))
			})
			if len(found.Namespaces) != len(want) || len(want) > 0 && !cmp.Equal(found.Namespaces, want) {
				t.Fatalf("%q finds %v, want %v", search, found.Namespaces, want)
			}
			reachable(t, s, v, user, list.Namespaces)
			total += list.Total
		}
	}
	if total < 500 || ends < 50 || absent < 50 {
		t.Errorf("only %d namespaces, %d of them with an end, %d not there", total, ends, absent)
	}
	s := serviceOf(viewOf(t, organisation(rand.New(rand.NewPCG(1, 1)), 0)))
	if list, err := s.Namespaces(1, people.Filter{Offset: 10_000, Limit: 1}); err != nil || len(list.Namespaces) != 0 {
		t.Error(list, err)
	}
}

// reachable compares Reachable with the list.
func reachable(t *testing.T, s *people.Service, v authz.View, user int64, list []webapi.Namespace) {
	t.Helper()
	got, err := s.Reachable(user)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, role := range v.Policy.ClusterRoles() {
		for _, n := range list {
			has := slices.DeleteFunc(slices.Clone(n.Roles), func(r string) bool { return slices.Contains(n.Lacks, r) })
			if len(has) > 0 && has[0] == role {
				want = append(want, n.Name)
			}
		}
	}
	for _, n := range list {
		if n.State != "" {
			want = append(want, n.Name)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("reachable %v, want %v", got, want)
	}
}

func TestBeforeGitLabWasRead(t *testing.T) {
	t.Parallel()
	s := people.New(people.Options{View: func() (authz.View, bool) { return authz.View{}, false }})
	if id := s.Identity(7); id != (webapi.Identity{ID: 7}) {
		t.Error(id)
	}
	_, list := s.Namespaces(7, people.Filter{})
	_, reachable := s.Reachable(7)
	_, can := s.Can(7, authz.Question{})
	_, ci := s.CI(7, "1")
	_, changes := s.Changes(t.Context(), 7, now)
	for what, err := range map[string]error{"list": list, "reachable": reachable, "can": can, "ci": ci} {
		if !errors.Is(err, people.ErrUnread) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !errors.Is(changes, people.ErrNoHistory) {
		t.Error(changes)
	}
}

func TestChangesAreNewestFirst(t *testing.T) {
	t.Parallel()
	list, err := serviceOf(viewOf(t, organisation(rand.New(rand.NewPCG(1, 1)), 0))).Changes(t.Context(), 3, now)
	var got []string
	for _, c := range list {
		got = append(got, c.At.Format("15h")+c.Namespace+c.Role)
	}
	if want := []string{"13ha", "12ha", "12hb3"}; err != nil || !slices.Equal(got, want) {
		t.Error(got, want, err)
	}
}

// TestManyChangesOfOneNamespace: the way to a membership is looked up once for each namespace, however many changes there are.
func TestManyChangesOfOneNamespace(t *testing.T) {
	v := viewOf(t, organisation(rand.New(rand.NewPCG(1, 1)), 0))
	user, namespace := int64(0), ""
	for id := range v.Snapshot.Users {
		for ns, source := range v.Source {
			if _, ok := v.Trail(id, source, now); ok {
				user, namespace = id, ns
			}
		}
	}
	if user == 0 {
		t.Fatal("nobody is a member of anything")
	}
	changed := make([]people.Changed, 1000)
	for i := range changed {
		changed[i] = people.Changed{Change: webapi.Change{At: now, Namespace: namespace, Why: "why"}}
	}
	s := people.New(people.Options{
		View: func() (authz.View, bool) { return v, true }, Now: func() time.Time { return now },
		Changes: func(context.Context, int64, time.Time) ([]people.Changed, error) { return changed, nil },
	})
	lookUp := testing.AllocsPerRun(100, func() { v.Trail(user, v.Source[namespace], now) })
	if n := testing.AllocsPerRun(3, func() {
		if list, err := s.Changes(t.Context(), user, now); err != nil || len(list) != len(changed) || list[0].Why != "why" {
			t.Error(len(list), err)
		}
	}); n >= lookUp*float64(len(changed)) {
		t.Errorf("%d changes take %.0f allocations, and each look-up takes %.0f", len(changed), n, lookUp)
	}
}

// TestWhyARightCame: the whole reason is for members of what the namespace belongs to now, and of all that it names by id: all others
// hear what names nothing. That an administrator approved it is for everybody.
func TestWhyARightCame(t *testing.T) {
	t.Parallel()
	user := authz.User{ID: 1, State: authz.StateActive, Human: true}
	rows := []authz.Member{{User: 1, Level: authz.Developer}}
	s := &authz.Snapshot{Users: map[int64]authz.User{1: user}, Groups: map[int64]authz.Group{7: {ID: 7, Path: "haw"}}, Projects: map[int64]authz.Project{
		42: {ID: 42, Group: 7, Path: "haw/world", Members: rows}, 43: {ID: 43, Group: 7, Path: "haw/secret"},
	}}
	v := authz.NewView(s, policy(t), map[authz.SourceID]string{authz.ProjectID(42): "mine", authz.ProjectID(43): "other", authz.UserID(1): "own"})
	for _, c := range []struct {
		name, namespace, why, placeless string
		approved                        bool
		want                            string
	}{
		{"a member", "mine", "Developer in haw/world, direct member", "Developer", false, "Developer in haw/world, direct member"},
		{"no member", "other", "was Developer in haw/secret, direct member; that is gone", "was Developer; that is gone", false, "was Developer; that is gone"},
		{"by the configuration", "other", "project/43 haw/secret", "", false, ""},
		{"approved", "other", "project/43 haw/secret", "", true, "approved by an administrator"},
		{"approved, of a member", "mine", "project/42 haw/world", "", true, "project/42 haw/world, approved by an administrator"},
		{"of what the namespace belonged to before", "mine", "project/43 (haw/secret) is gone from GitLab or left out", "", false, ""},
		{"of what there is not", "mine", "project/99999999999999999999 x", "", false, ""},
		{"a namespace that is gone", "gone", "Developer in haw/world, direct member", "Developer", false, "Developer"},
		{"their own", "own", "Owner in their own namespace, because it is their own", "Owner", false, "Owner in their own namespace, because it is your own"},
	} {
		service := people.New(people.Options{View: func() (authz.View, bool) { return v, true }, Changes: func(context.Context, int64, time.Time) ([]people.Changed, error) {
			return []people.Changed{{Change: webapi.Change{Namespace: c.namespace, Why: c.why}, Placeless: c.placeless, Approved: c.approved}}, nil
		}})
		if got, err := service.Changes(t.Context(), 1, now); err != nil || len(got) != 1 || got[0].Why != c.want {
			t.Errorf("%s: %+v, %v, want %q", c.name, got, err, c.want)
		}
	}
	unread := people.New(people.Options{View: func() (authz.View, bool) { return authz.View{}, false }, Changes: func(context.Context, int64, time.Time) ([]people.Changed, error) {
		return []people.Changed{{}}, nil
	}})
	if got, err := unread.Changes(t.Context(), 1, now); !errors.Is(err, people.ErrUnread) {
		t.Errorf("while it is not known what they are members of: %v, %v", got, err)
	}
}

// TestAProjectIsNotToldByTime: looking for somebody else's project by its path takes as long as looking for one that there is not.
func TestAProjectIsNotToldByTime(t *testing.T) {
	s := &authz.Snapshot{Projects: map[int64]authz.Project{}}
	for id := range int64(20000) {
		s.Projects[id+1] = authz.Project{ID: id + 1, Path: fmt.Sprintf("haw/project-%05d", id)}
	}
	service := people.New(people.Options{
		View: func() (authz.View, bool) { return authz.View{Snapshot: s}, true },
		CI:   func(authz.View, int64) (webapi.CI, bool) { return webapi.CI{}, true },
	})
	fastest := func(path string) time.Duration {
		least := time.Hour
		for range 40 {
			began := time.Now()
			if _, err := service.CI(1, path); !errors.Is(err, people.ErrNoProject) {
				t.Fatal(err)
			}
			least = min(least, time.Since(began))
		}
		return least
	}
	there, missing := fastest("haw/project-07000"), fastest("haw/project-x7000")
	if there < missing/2 { // who stops at the project is some time a hundred times as fast
		t.Errorf("a project that there is takes %v, another one %v", there, missing)
	}
}

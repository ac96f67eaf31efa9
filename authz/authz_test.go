package authz_test

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const (
	alice int64 = 1 + iota
	bob
	carol
	dave
	mallory
	bot
)

// world is a small GitLab: haw (1) has the subgroup haw/lab (2); guests (3) has the subgroup guests/inner (4).
func world() *authz.Snapshot {
	user := func(id int64, name string) authz.User {
		return authz.User{ID: id, Username: name, State: authz.StateActive, Human: true}
	}
	return &authz.Snapshot{
		Issuer: "https://gitlab.example.com",
		Users: map[int64]authz.User{
			alice: user(alice, "alice"), bob: user(bob, "bob"), carol: user(carol, "carol"), dave: user(dave, "dave"),
			mallory: user(mallory, "mallory"), bot: {ID: bot, Username: "project_1_bot", State: authz.StateActive},
		},
		Groups: map[int64]authz.Group{
			1: {ID: 1, Path: "haw", Members: []authz.Member{{User: dave, Level: authz.Owner}}},
			2: {ID: 2, Parent: 1, Path: "haw/lab", Members: []authz.Member{{User: bob, Level: authz.Developer}}},
			3: {ID: 3, Path: "guests", Members: []authz.Member{{User: carol, Level: authz.Maintainer}}},
			4: {ID: 4, Parent: 3, Path: "guests/inner", Members: []authz.Member{{User: mallory, Level: authz.Maintainer}}},
		},
		Projects: map[int64]authz.Project{
			10: {ID: 10, Group: 2, Path: "haw/lab/world", Members: []authz.Member{{User: alice, Level: authz.Maintainer}}},
			11: {ID: 11, Owner: bob, Path: "bob/toy"},
		},
	}
}

func policy(t *testing.T) authz.Policy {
	t.Helper()
	p, err := authz.NewPolicy(authz.PolicyConfig{
		Roles: authz.DefaultRoles(),
		Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource, authz.UserSource},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// rights returns "user:role" for each grant in one source.
func rights(t *testing.T, s *authz.Snapshot, id authz.SourceID) string {
	t.Helper()
	p := policy(t)
	grants, _ := p.Grants(s, p.Sources(s), now)
	var out []string
	for _, g := range grants {
		for _, u := range g.Users {
			if g.Source == id {
				out = append(out, s.Users[u].Username+":"+g.ClusterRole)
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestEffectiveRights(t *testing.T) {
	yesterday, tomorrow := authz.Date{Year: 2026, Month: 11, Day: 21}, authz.Date{Year: 2026, Month: 11, Day: 23}
	today := authz.Date{Year: 2026, Month: 11, Day: 22}
	lab, world10 := authz.GroupID(2), authz.ProjectID(10)
	link := func(s *authz.Snapshot, to int64, l authz.Link) {
		g := s.Groups[to]
		g.Links = append(g.Links, l)
		s.Groups[to] = g
	}
	plink := func(s *authz.Snapshot, l authz.Link) {
		p := s.Projects[10]
		p.Links = append(p.Links, l)
		s.Projects[10] = p
	}
	row := func(s *authz.Snapshot, group int64, m authz.Member) {
		g := s.Groups[group]
		g.Members = append(g.Members, m)
		s.Groups[group] = g
	}
	state := func(s *authz.Snapshot, id int64, st authz.UserState) {
		u := s.Users[id]
		u.State = st
		s.Users[id] = u
	}
	for _, c := range []struct {
		name   string
		change func(*authz.Snapshot)
		in     authz.SourceID
		want   string
	}{
		{"direct rows and inheritance", nil, world10, "alice:edit bob:view dave:edit"},
		{"a subgroup inherits, the parent does not", nil, authz.GroupID(1), "dave:edit"},
		{"the owner of a personal project", nil, authz.ProjectID(11), "bob:edit"},
		{"the personal namespace", nil, authz.UserID(carol), "carol:edit"},
		{"highest level wins over a lower direct row", func(s *authz.Snapshot) { row(s, 2, authz.Member{User: dave, Level: authz.Developer}) }, lab, "bob:view dave:edit"},
		{"a group invited into a group: direct members, capped", func(s *authz.Snapshot) { link(s, 2, authz.Link{Group: 3, Level: authz.Developer}) }, lab, "bob:view carol:view dave:edit"},
		{"inherited members of an invited group don't enter a group", func(s *authz.Snapshot) { link(s, 2, authz.Link{Group: 4, Level: authz.Owner}) }, lab, "bob:view dave:edit mallory:edit"},
		{"invited into an ancestor", func(s *authz.Snapshot) { link(s, 1, authz.Link{Group: 3, Level: authz.Maintainer}) }, world10, "alice:edit bob:view carol:edit dave:edit"},
		{"a group invited into a project: inherited members too", func(s *authz.Snapshot) { plink(s, authz.Link{Group: 4, Level: authz.Maintainer}) }, world10, "alice:edit bob:view carol:edit dave:edit mallory:edit"},
		{"members of a group that is invited into the invited group", func(s *authz.Snapshot) {
			link(s, 4, authz.Link{Group: 3, Level: authz.Developer})
			g := s.Groups[4]
			g.Parent = 0
			s.Groups[4] = g
			plink(s, authz.Link{Group: 4, Level: authz.Maintainer})
		}, world10, "alice:edit bob:view carol:view dave:edit mallory:edit"},
		{"share lock", func(s *authz.Snapshot) {
			plink(s, authz.Link{Group: 4, Level: authz.Maintainer})
			g := s.Groups[2]
			g.ShareLock = true
			s.Groups[2] = g
		}, world10, "alice:edit bob:view dave:edit"},
		{"a link that ends today", func(s *authz.Snapshot) { plink(s, authz.Link{Group: 3, Level: authz.Maintainer, Expires: today}) }, world10, "alice:edit bob:view dave:edit"},
		{"a link that ends tomorrow", func(s *authz.Snapshot) { plink(s, authz.Link{Group: 3, Level: authz.Maintainer, Expires: tomorrow}) }, world10, "alice:edit bob:view carol:edit dave:edit"},
		{"a row that ended, beside a lower one that did not", func(s *authz.Snapshot) {
			row(s, 1, authz.Member{User: carol, Level: authz.Developer, Expires: tomorrow})
			row(s, 2, authz.Member{User: carol, Level: authz.Owner, Expires: yesterday})
		}, lab, "bob:view carol:view dave:edit"},
		{"blocked", func(s *authz.Snapshot) { state(s, dave, "blocked") }, lab, "bob:view"},
		{"deactivated is not active either", func(s *authz.Snapshot) { state(s, dave, "deactivated") }, lab, "bob:view"},
		{"a state nobody knows", func(s *authz.Snapshot) { state(s, dave, "") }, lab, "bob:view"},
		{"bots", func(s *authz.Snapshot) { row(s, 2, authz.Member{User: bot, Level: authz.Maintainer}) }, lab, "bob:view dave:edit"},
		{"an account that was never read", func(s *authz.Snapshot) { row(s, 2, authz.Member{User: 99, Level: authz.Maintainer}) }, lab, "bob:view dave:edit"},
		{"levels beside the mapped ones", func(s *authz.Snapshot) {
			for _, l := range []authz.Level{0, 5, 10, 15, 20, 25, 60, 35} {
				row(s, 2, authz.Member{User: carol, Level: l})
			}
		}, lab, "bob:view dave:edit"},
		{"archived: nobody writes", func(s *authz.Snapshot) { p := s.Projects[10]; p.Archived = true; s.Projects[10] = p }, world10, "alice:view bob:view dave:view"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := world()
			if c.change != nil {
				c.change(s)
			}
			if got := rights(t, s, c.in); got != c.want {
				t.Errorf("rights in %s = %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func TestUnknownLevelIsAFindingAndNoRight(t *testing.T) {
	s := world()
	g := s.Groups[2]
	g.Members = append(g.Members, authz.Member{User: carol, Level: 35})
	s.Groups[2] = g
	p := policy(t)
	_, findings := p.Grants(s, p.Sources(s), now)
	var codes []string
	for _, f := range findings {
		codes = append(codes, f.Code+" "+f.Source.String())
	}
	if want := []string{"unknown_level group/2", "unknown_level project/10"}; !slices.Equal(codes, want) {
		t.Errorf("findings = %q, want %q", codes, want)
	}
}

func TestUntouchableFollowsWhatMembershipDependsOn(t *testing.T) {
	s := world()
	p := s.Projects[10]
	p.Links = []authz.Link{{Group: 4, Level: authz.Developer}}
	s.Projects[10] = p
	for _, c := range []struct {
		missing authz.SourceID
		want    []string
	}{
		{authz.GroupID(1), []string{"group/1", "group/2", "project/10"}},
		{authz.GroupID(3), []string{"group/3", "group/4", "project/10"}}, // inherited members of the invited group
		{authz.ProjectID(11), []string{"project/11"}},
	} {
		s.Missing = map[authz.SourceID]string{c.missing: "page 2 answered 502"}
		var got []string
		for id := range s.Incomplete() {
			got = append(got, id.String())
		}
		slices.Sort(got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s missing (-want +got):\n%s", c.missing, diff)
		}
	}
	s.Missing = nil
	delete(s.Groups, 3) // invisible to the token
	if got := s.Incomplete(); got[authz.ProjectID(10)] == "" || got[authz.GroupID(2)] != "" {
		t.Errorf("a group that is referred to but unreadable: got %v", got)
	}
	s = world()
	top := s.Groups[1]
	top.Parent = 2
	s.Groups[1] = top
	if got := s.Incomplete(); got[authz.GroupID(1)] == "" || got[authz.ProjectID(10)] == "" || got[authz.GroupID(3)] != "" {
		t.Errorf("a parent cycle: got %v", got)
	}
	if s.MissingAll = "projects: 502"; len(s.Incomplete()) != len(s.Groups)+len(s.Projects)+len(s.Users) {
		t.Error("with MissingAll every source must be untouchable")
	}
}

func TestNextExpiry(t *testing.T) {
	s := world()
	if got := authz.NextExpiry(s, now); !got.IsZero() {
		t.Errorf("without expiry dates: %v", got)
	}
	s.Groups[2].Members[0].Expires = authz.Date{Year: 2026, Month: 11, Day: 22} // over since midnight
	s.Groups[1].Members[0].Expires = authz.Date{Year: 2027, Month: 1, Day: 2}
	if want := time.Date(2027, 1, 2, 0, 0, 0, 0, time.UTC); !authz.NextExpiry(s, now).Equal(want) {
		t.Errorf("got %v, want %v", authz.NextExpiry(s, now), want)
	}
	p := s.Projects[10]
	p.Links = []authz.Link{{Group: 3, Level: authz.Developer, Expires: authz.Date{Year: 2026, Month: 12, Day: 1}}}
	s.Projects[10] = p
	if want := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC); !authz.NextExpiry(s, now).Equal(want) {
		t.Errorf("of a link: got %v, want %v", authz.NextExpiry(s, now), want)
	}
}

func TestNewPolicyTellsAllFaultsAtOnce(t *testing.T) {
	_, err := authz.NewPolicy(authz.PolicyConfig{
		Roles: []authz.Role{{ClusterRole: "", Levels: []authz.Level{authz.Owner}}, {ClusterRole: "view", Levels: []authz.Level{authz.Owner, 35}}},
		Kinds: []authz.SourceKind{"team"},
	})
	for _, want := range []string{"roles[0]: clusterRole is empty", "roles[1]: Owner is mapped", "roles[1]: level 35 can't be mapped", `unknown kind "team"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func TestAssignNames(t *testing.T) {
	src := func(id authz.SourceID, path string) authz.Source { return authz.Source{ID: id, Path: path} }
	for _, c := range []struct {
		name    string
		sources []authz.Source
		have    map[authz.SourceID]string
		taken   []string
		want    map[authz.SourceID]string
	}{
		{"from the path", []authz.Source{src(authz.ProjectID(42), "Foo-Group/bar_b.z")}, nil, nil, map[authz.SourceID]string{authz.ProjectID(42): "foo-group-bar-b-z"}},
		{"umlauts", []authz.Source{src(authz.GroupID(1), "Müßig/Öl")}, nil, nil, map[authz.SourceID]string{authz.GroupID(1): "muessig-oel"}},
		{
			"system namespaces, however they are spelled",
			[]authz.Source{src(authz.GroupID(1), "Kube-System"), src(authz.GroupID(2), "kube_system"), src(authz.GroupID(3), "default"), src(authz.GroupID(4), "kube.public")},
			nil, nil,
			map[authz.SourceID]string{authz.GroupID(1): "gitlab-kube-system-g1", authz.GroupID(2): "gitlab-kube-system-g2", authz.GroupID(3): "default-g3", authz.GroupID(4): "gitlab-kube-public-g4"},
		},
		{
			"ties go to the lower id",
			[]authz.Source{src(authz.GroupID(9), "a-b"), src(authz.ProjectID(5), "a/b")},
			nil, nil,
			map[authz.SourceID]string{authz.ProjectID(5): "a-b", authz.GroupID(9): "a-b-g9"},
		},
		{"taken by a foreign namespace", []authz.Source{src(authz.GroupID(7), "web-shop")}, nil, []string{"web-shop"}, map[authz.SourceID]string{authz.GroupID(7): "web-shop-g7"}},
		{
			"nobody can squat a suffixed name",
			[]authz.Source{src(authz.GroupID(3), "team-g7"), src(authz.GroupID(7), "team")},
			nil,
			[]string{"team"},
			map[authz.SourceID]string{authz.GroupID(3): "team-g7-g3", authz.GroupID(7): "team-g7"},
		},
		{"once given it stays", []authz.Source{src(authz.GroupID(7), "renamed")}, map[authz.SourceID]string{authz.GroupID(7): "old"}, nil, map[authz.SourceID]string{authz.GroupID(7): "old"}},
		{"a name that a vanished source still holds", []authz.Source{src(authz.GroupID(8), "old")}, map[authz.SourceID]string{authz.GroupID(7): "old"}, nil, map[authz.SourceID]string{authz.GroupID(8): "old-g8"}},
		{"nothing left of the path", []authz.Source{src(authz.UserID(3), "___")}, nil, nil, map[authz.SourceID]string{authz.UserID(3): "gitlab-u3"}},
		{"reserved by configuration", []authz.Source{src(authz.GroupID(7), "Intra.Net")}, nil, nil, map[authz.SourceID]string{authz.GroupID(7): "intra-net-g7"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			taken := map[string]bool{}
			for _, n := range c.taken {
				taken[n] = true
			}
			got, findings := authz.AssignNames(c.sources, c.have, taken, []string{"intra_net"})
			if diff := cmp.Diff(c.want, got); diff != "" || len(findings) != 0 {
				t.Errorf("findings %v (-want +got):\n%s", findings, diff)
			}
		})
	}
	got, findings := authz.AssignNames([]authz.Source{src(authz.GroupID(7), "x")}, nil, map[string]bool{"x": true, "x-g7": true}, nil)
	if len(got) != 0 || len(findings) != 1 || findings[0].Code != "namespace_name_taken" {
		t.Errorf("both names taken: got %v, %v", got, findings)
	}
}

// FuzzAssignNames: whatever paths people choose, and whatever stands in the cluster already, names are injective, valid
// and never reserved. Its seeds in testdata are the 2018 original's failures, and what fuzzing found worth keeping.
func FuzzAssignNames(f *testing.F) {
	for _, s := range []string{"haw/world", "Kube-System", "-._-", "a/b-g7", strings.Repeat("x", 300), "ä/ö", "kube-", "日本", "Com", "de", "svc", "xn--p1ai", "cert_manager", "OpenShift.x", "gitlab-agent-1", "agent-1"} {
		f.Add(s, s+"x", s, "haw-world", "openshift-*", int64(7), int64(8))
	}
	simple := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(-?\*)?$`)
	f.Fuzz(func(t *testing.T, a, b, kept, foreign, reserved string, x, y int64) {
		if x <= 0 || y <= 0 || x == y {
			t.Skip()
		}
		sources := []authz.Source{{ID: authz.GroupID(x), Path: a}, {ID: authz.GroupID(y), Path: b}, {ID: authz.ProjectID(x), Path: b}, {ID: authz.UserID(y), Path: a}, {ID: authz.ProjectID(y), Path: a}}
		taken := map[string]bool{"kube-system": true, "default": true, "haw-world": true}
		if len(validation.IsDNS1123Label(foreign)) == 0 {
			taken[foreign] = true
		}
		have := map[authz.SourceID]string{} // one of them has a name from before it was renamed, and so has one that is gone
		if len(validation.IsDNS1123Label(kept)) == 0 && !taken[kept] {
			have[authz.ProjectID(y)] = kept
		}
		if former := "former-" + kept; len(validation.IsDNS1123Label(former)) == 0 && !taken[former] {
			have[authz.UserID(x)] = former
		}
		names, findings := authz.AssignNames(sources, have, taken, []string{reserved})
		without := 0
		for _, f := range findings {
			if f.Code == "namespace_name_taken" {
				without++
			}
		}
		if len(names)+without != len(sources) {
			t.Fatalf("%d names and %d findings for %d sources", len(names), without, len(sources))
		}
		seen := map[string]bool{}
		for id, n := range names {
			if seen[n] || taken[n] || (have[authz.UserID(x)] != "" && n == have[authz.UserID(x)]) {
				t.Fatalf("name %q is given twice or taken: %v", n, names)
			}
			seen[n] = true
			if old := have[id]; old != "" {
				if n != old {
					t.Fatalf("%s had %q and now has %q", id, old, n)
				}
				continue // once given it stays, whatever is reserved later
			}
			if len(validation.IsDNS1123Label(n)) > 0 {
				t.Fatalf("%q is not an RFC 1123 label", n)
			}
			if why := authz.Reserved(n); why != "" {
				t.Fatalf("%q is reserved: %s", n, why)
			}
			if simple.MatchString(reserved) {
				prefix, open := strings.CutSuffix(reserved, "*")
				if n == prefix || (open && strings.HasPrefix(n, prefix)) {
					t.Fatalf("%q is reserved by %q", n, reserved)
				}
			}
		}
		slices.Reverse(sources)
		again, _ := authz.AssignNames(sources, have, taken, []string{reserved})
		if !maps.Equal(names, again) {
			t.Fatalf("the order of the sources matters: %v, %v", names, again)
		}
	})
}

func TestExplain(t *testing.T) {
	s := world()
	s.Groups[2].Members[0].Level = authz.Developer
	lab := s.Groups[2]
	lab.Members = append(lab.Members, authz.Member{User: carol, Level: authz.Reporter})
	s.Groups[2] = lab
	u := s.Users[mallory]
	u.State = "blocked"
	s.Users[mallory] = u
	p := policy(t)
	names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
	v := authz.NewView(s, p, names).WithRules(rules()).WithGaps(map[authz.SourceID]authz.Gap{})
	for _, c := range []struct {
		name string
		user int64
		q    authz.Question
		want string
	}{
		{
			"Developer who wants to change", bob,
			authz.Question{Namespace: "haw-lab-world", Verb: "create", Group: "apps", Resource: "deployments"},
			`you are Developer in haw/lab/world (ClusterRole "view"); create deployments needs Maintainer or Owner (ask alice, dave).`,
		},
		{
			"Developer who reads a Secret", bob,
			authz.Question{Namespace: "haw-lab-world", Verb: "get", Resource: "secrets"},
			`you are Developer in haw/lab/world (ClusterRole "view"); get secrets needs Maintainer or Owner (ask alice, dave).`,
		},
		{
			"Maintainer beyond edit", alice,
			authz.Question{Namespace: "haw-lab-world", Verb: "create", Resource: "rolebindings"},
			`you are Maintainer in haw/lab/world (ClusterRole "edit"); no GitLab role there allows create rolebindings. Ask the cluster's administrators.`,
		},
		{
			"Developer whom no Maintainer can help", bob,
			authz.Question{Namespace: "haw-lab-world", Verb: "get", Group: "rbac.authorization.k8s.io", Resource: "rolebindings"},
			`you are Developer in haw/lab/world (ClusterRole "view"); no GitLab role there allows get rolebindings. Ask the cluster's administrators.`,
		},
		{
			"a right that was there a moment ago", alice,
			authz.Question{Namespace: "haw-lab-world", Verb: "get", Resource: "pods", Subresource: "log"},
			`GitLab gives you ClusterRole "edit" here (you are Maintainer in haw/lab/world), which allows get pods/log, but it is not in the cluster yet, and why is not known here. Try again in a minute, then ask the cluster's administrators.`,
		},
		{
			"Reporter", carol,
			authz.Question{Namespace: "haw-lab", Verb: "get", Resource: "pods"},
			`you are Reporter in haw/lab, which gives no right in the cluster; get pods needs Developer, Maintainer or Owner (ask dave, bob).`,
		},
		{
			"stranger", carol,
			authz.Question{Namespace: "haw", Verb: "get", Resource: "pods"},
			`namespace "haw" is not one you have a GitLab role in, if it exists. "kubectl get namespaces" is refused too, and lists yours.`,
		},
		{
			"all namespaces", bob,
			authz.Question{Verb: "list", Resource: "namespaces"},
			`nobody can list all namespaces. Your namespaces: bob, bob-toy (edit); haw-lab, haw-lab-world (view).`,
		},
		{
			"making a namespace", bob,
			authz.Question{Verb: "create", Resource: "namespaces"},
			`namespaces are made from GitLab: create a group or project there, and its namespace appears. Your namespaces: bob, bob-toy (edit); haw-lab, haw-lab-world (view).`,
		},
		{"blocked", mallory, authz.Question{Verb: "list", Resource: "pods"}, `your GitLab account is blocked. Ask an administrator of GitLab.`},
		{"unknown", 99, authz.Question{Verb: "list", Resource: "pods"}, `GitLab's rights for your account were not read yet. Try again in a minute.`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := v.User(c.user, c.q, now); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestHostileNamesStayOnOneLine(t *testing.T) {
	s, p := world(), policy(t)
	pr := s.Projects[10]
	pr.Path = "haw/\x1b[31mred\nnext " + strings.Repeat("x", 500)
	s.Projects[10] = pr
	v := authz.NewView(s, p, map[authz.SourceID]string{authz.ProjectID(10): "ns"})
	got := v.User(bob, authz.Question{Namespace: "ns", Verb: "create", Resource: "pods"}, now)
	if strings.ContainsAny(got, "\x1b\n") || len(got) > 400 {
		t.Errorf("unfit for a terminal: %q", got)
	}
}

func TestDates(t *testing.T) {
	for in, want := range map[string]authz.Date{"": {}, "2026-01-31": {Year: 2026, Month: 1, Day: 31}, "2026-01-31T00:00:00Z": {Year: 2026, Month: 1, Day: 31}} {
		if got, err := authz.ParseDate(in); err != nil || got != want {
			t.Errorf("ParseDate(%q) = %v, %v", in, got, err)
		}
	}
	if _, err := authz.ParseDate("31.01.2026"); err == nil {
		t.Error("a date in another form must be an error: it could hide an expiry")
	}
	d := authz.Date{Year: 2026, Month: 1, Day: 31}
	if d.Over(d.Start().Add(-time.Nanosecond)) || !d.Over(d.Start()) {
		t.Error("access ends at the start of the day, UTC")
	}
}

func TestLevels(t *testing.T) {
	for in, want := range map[string]authz.Level{"Owner": 50, "master": 40, "security_manager": 25, "no access": 0} {
		if got, err := authz.ParseLevel(in); err != nil || got != want {
			t.Errorf("ParseLevel(%q) = %v, %v", in, got, err)
		}
	}
	if _, err := authz.ParseLevel("root"); err == nil {
		t.Error("unknown level accepted")
	}
}

func TestSourceLabelsRoundTrip(t *testing.T) {
	for _, s := range []authz.SourceID{authz.GroupID(7), authz.ProjectID(42), authz.UserID(3)} {
		if got, ok := authz.ParseLabel(s.Label()); !ok || got != s {
			t.Errorf("%s: %v %v", s, got, ok)
		}
	}
	for _, bad := range []string{"", "group", "group-0", "group--1", "group-07", "team-3", "group-1x"} {
		if _, ok := authz.ParseLabel(bad); ok {
			t.Errorf("%q accepted", bad)
		}
	}
}

// TestPath: each kind has a path, and what the Snapshot does not have has none, also if another kind has that number.
func TestPath(t *testing.T) {
	s := world()
	for id, want := range map[authz.SourceID]string{
		authz.GroupID(2): "haw/lab", authz.ProjectID(10): "haw/lab/world", authz.UserID(bob): "bob",
		authz.GroupID(10): "", authz.ProjectID(2): "", authz.UserID(11): "", authz.GroupID(0): "", {Kind: "snippet", ID: 2}: "",
	} {
		if got, ok := s.Path(id); got != want || ok != (want != "") || s.Contains(id) != ok {
			t.Errorf("%s: %q, %v, contained %v", id, got, ok, s.Contains(id))
		}
	}
}

package preview_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/preview"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
)

var updateGolden = flag.Bool("update", false, "rewrite golden files")

// world has groups 7 (haw), 8 (haw/lab, below it), 9 (guests) and 10 (auditors); project 42 (haw/world) in 7, project 43
// (haw/lab/robot) in 8. Group 9 is invited into project 42 as Developer, group 10 into group 7 as Developer.
//
//	2 alice  Owner of 7          4 carol  Developer of 7        6 eve    Maintainer of 9
//	3 bob    Developer of 42     5 dave   Maintainer of 43      7 frank  Developer of 10
//	8 grace  Developer of 42, until 1 December
func world() *authz.Snapshot {
	created := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	s := &authz.Snapshot{Issuer: rbacsynctest.Issuer, Users: map[int64]authz.User{}}
	for i, name := range []string{"alice", "bob", "carol", "dave", "eve", "frank", "grace"} {
		id := int64(i + 2)
		s.Users[id] = authz.User{ID: id, Username: name, State: authz.StateActive, Human: true}
	}
	row := func(user int64, l authz.Level) authz.Member { return authz.Member{User: user, Level: l} }
	grace := row(8, authz.Developer)
	grace.Expires = authz.Date{Year: 2026, Month: 12, Day: 1}
	s.Groups = map[int64]authz.Group{
		7: {ID: 7, Path: "haw", CreatedAt: created, Members: []authz.Member{row(2, authz.Owner), row(4, authz.Developer)}, Links: []authz.Link{
			{Group: 10, Level: authz.Developer, Expires: authz.Date{Year: 2026, Month: 12, Day: 24}},
		}},
		8:  {ID: 8, Parent: 7, Path: "haw/lab", CreatedAt: created},
		9:  {ID: 9, Path: "guests", CreatedAt: created, Members: []authz.Member{row(6, authz.Maintainer)}},
		10: {ID: 10, Path: "auditors", CreatedAt: created, Members: []authz.Member{row(7, authz.Developer)}},
	}
	s.Projects = map[int64]authz.Project{
		42: {ID: 42, Group: 7, Path: "haw/world", CreatedAt: created, Members: []authz.Member{row(3, authz.Developer), grace}, Links: []authz.Link{{Group: 9, Level: authz.Developer}}},
		43: {ID: 43, Group: 8, Path: "haw/lab/robot", CreatedAt: created, Members: []authz.Member{row(5, authz.Maintainer)}},
	}
	return s
}

func config() authz.PolicyConfig {
	return authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource}}
}

func policy(t *testing.T, c authz.PolicyConfig) authz.Policy {
	t.Helper()
	p, err := authz.NewPolicy(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// scene is what a test changes in a world whose cluster is in step.
type scene struct {
	now    *authz.Snapshot
	config authz.PolicyConfig
	have   *rbacsync.Observed
	in     *preview.Input
	day    time.Time
}

func (s *scene) project(id int64, f func(*authz.Project)) {
	p := s.now.Projects[id]
	f(&p)
	s.now.Projects[id] = p
}

func (s *scene) group(id int64, f func(*authz.Group)) {
	g := s.now.Groups[id]
	f(&g)
	s.now.Groups[id] = g
}

func (s *scene) level(project, user int64, l authz.Level) {
	s.project(project, func(p *authz.Project) {
		for i := range p.Members {
			if p.Members[i].User == user {
				p.Members[i].Level = l
			}
		}
	})
}

func without(rows []authz.Member, user int64) []authz.Member {
	return slices.DeleteFunc(rows, func(m authz.Member) bool { return m.User == user })
}

// newScene returns a world whose cluster is in step.
func newScene(t *testing.T) *scene {
	t.Helper()
	was, empty := policy(t, config()), &rbacsync.Observed{}
	changes, _ := rbacsync.Plan(empty, wanted(was, world(), empty, rbacsynctest.Noon))
	return &scene{now: world(), config: config(), have: rbacsynctest.Apply(empty, changes), in: &preview.Input{Before: world(), Was: []authz.Policy{was}}, day: rbacsynctest.Noon}
}

var scenes = map[string]func(*scene){
	"nothing": func(*scene) {},
	"first":   func(s *scene) { s.have, s.in.Before, s.in.Was = &rbacsync.Observed{}, nil, nil },
	"members": func(s *scene) {
		s.project(42, func(p *authz.Project) {
			p.Members = append(without(p.Members, 3), authz.Member{User: 5, Level: authz.Maintainer}) // bob leaves, dave comes
		})
		s.group(7, func(g *authz.Group) { g.Members = without(g.Members, 4) }) // carol leaves
		s.level(43, 5, authz.Developer)
	},
	"promotion": func(s *scene) { s.level(42, 3, authz.Maintainer) },
	"demotion":  func(s *scene) { s.level(42, 3, authz.Guest) },
	"invitations": func(s *scene) {
		s.project(42, func(p *authz.Project) { p.Links = nil })
		s.group(10, func(g *authz.Group) { g.Members = nil })
		s.project(43, func(p *authz.Project) { p.Links = []authz.Link{{Group: 9, Level: authz.Maintainer}} })
	},
	"expiry":  func(s *scene) { s.day = time.Date(2026, 12, 2, 0, 0, 0, 0, time.UTC) },
	"link":    func(s *scene) { s.day = time.Date(2026, 12, 25, 0, 0, 0, 0, time.UTC) },
	"blocked": func(s *scene) { u := s.now.Users[2]; u.State = "blocked"; s.now.Users[2] = u },
	"account": func(s *scene) { delete(s.now.Users, 3) },
	"archived": func(s *scene) {
		s.project(43, func(p *authz.Project) { p.Archived = true })
	},
	"deletion": func(s *scene) {
		s.project(42, func(p *authz.Project) { p.MarkedForDeletion = true })
		s.config.MarkedForDeletion = authz.FrozenNone
	},
	"gone":  func(s *scene) { delete(s.now.Projects, 43) },
	"moved": func(s *scene) { s.project(42, func(p *authz.Project) { p.Group = 9 }) },
	"kinds": func(s *scene) { s.config.Kinds = []authz.SourceKind{authz.GroupSource, authz.UserSource} },
	"roles": func(s *scene) {
		s.config.Roles = s.config.Roles[:1]
		s.config.Exclude.People = []string{"dave"}
	},
	"extra": func(s *scene) {
		s.config.Extra = []authz.ExtraRole{
			{Source: authz.ProjectID(42), ClusterRole: "deployer", Group: 10},
			{Source: authz.ProjectID(43), ClusterRole: "deployer", Levels: []authz.Level{authz.Maintainer}},
		}
	},
	"drift": func(s *scene) {
		for _, l := range s.have.Live {
			if l.Key.Namespace == "haw-world" && l.Key.Name == "gitlab-view" {
				l.Binding.Users = []int64{3, 5}
				l.Binding.Others = []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "mallory\x1b[31m"}}
			}
			if l.Key == rbacsync.NamespaceKey("haw") {
				l.Namespace.PodSecurity.Enforce = "restricted"
			}
		}
	},
	"ci": func(s *scene) {
		s.in.Deliveries = []preview.Delivery{
			{Project: "project/42", Path: "haw/world", Namespace: "haw-world", Mode: "variables", Environment: "production", Protected: true, Write: []string{"KUBE_TOKEN", "KUBE_URL"}},
			{Project: "project/43", Path: "haw/lab/robot", Namespace: "haw-lab-robot", Mode: "none", Environment: "production", Remove: []string{"KUBE_TOKEN"}, InTheWay: []string{"KUBE_URL"}},
			{Project: "project/44", Namespace: "haw-44", Mode: "variables", Environment: "production", OtherOwner: "0b1c"},
			{
				Project: "project/45", Namespace: "haw-45", Mode: "variables", Environment: "production", Protected: true, Change: []string{"KUBECONFIG", "KUBE_TOKEN"}, Why: "most of the token's life is over",
				Remove: []string{"KUBE_URL"}, RemoveFrom: "staging",
			},
			{Project: "project/46", Namespace: "haw-46", Mode: "certificate", Environment: "production", Integration: true, IntegrationAction: "write"},
			{Project: "project/47", Namespace: "haw-47", Mode: "certificate", Environment: "production", Integration: true, IntegrationAction: "change", Why: "its ServiceAccount is made anew"},
			{Project: "project/48", Namespace: "haw-48", Mode: "none", Environment: "production", Integration: true, IntegrationAction: "remove"},
			{Project: "project/49", Namespace: "haw-49", Mode: "variables", Environment: "production", ExplanationAction: "write"},
			{Project: "project/50", Namespace: "haw-50", Mode: "variables", Environment: "production", ExplanationAction: "change"},
			{Project: "project/51", Namespace: "haw-51", Mode: "variables", Environment: "production", ExplanationAction: "remove"},
			{Project: "project/52", Namespace: "haw-52", Mode: "variables", Environment: "production", OtherOwner: "0b1c", ExplanationAction: "remove"},
			{Project: "project/53", Namespace: "haw-53", Mode: "certificate", Environment: "production", OtherOwner: "0b1c", Integration: true, IntegrationAction: "change"},
		}
	},
	"token": func(s *scene) {
		s.in.Deliveries = []preview.Delivery{{
			Project: "project/42", Path: "haw/world", Namespace: "haw-world", Mode: "variables", Environment: "ICC-K8s", Protected: true, Change: []string{"KUBECONFIG", "KUBE_TOKEN"},
			Why: "somebody who could read the token has lost the right to deploy",
		}}
	},
	"held": func(s *scene) {
		s.group(7, func(g *authz.Group) { g.Members = without(g.Members, 4) })
		s.in.Held = []rbacsync.Item{{Source: authz.GroupID(7), Role: "view", User: 4, Cause: authz.UserID(4), Scope: authz.GroupID(7), Why: "1 cause is over the limit of 0"}}
	},
}

func document(t *testing.T, change func(*scene)) preview.Document {
	t.Helper()
	s := newScene(t)
	change(s)
	p := policy(t, s.config)
	want := wanted(p, s.now, s.have, s.day)
	s.in.Plan, _ = rbacsync.Plan(s.have, want)
	if len(s.in.Held) > 0 { // as it is held, it is not in the plan
		s.in.Plan = nil
	}
	s.in.Observed, s.in.Snapshot, s.in.Policy, s.in.Now = s.have, s.now, p, s.day
	s.in.Names = names(p, s.now, s.have)
	return preview.New(*s.in)
}

func names(p authz.Policy, s *authz.Snapshot, have *rbacsync.Observed) map[authz.SourceID]string {
	known, taken := have.Names(s.Issuer)
	out, _ := authz.AssignNames(p.Sources(s), known, taken, nil)
	return out
}

func wanted(p authz.Policy, s *authz.Snapshot, have *rbacsync.Observed, now time.Time) *rbacsync.Wanted {
	sources := p.Sources(s)
	grants, _ := p.Grants(s, sources, now)
	return rbacsync.Desired(rbacsync.Input{
		Snapshot: s, Sources: sources, Names: names(p, s, have), Grants: grants, Roles: p.BaseRoles(), Further: p.FurtherRoles(), Now: now,
	})
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	file = filepath.Join("testdata", file)
	if *updateGolden {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (run the test with -update)", err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

// TestText compares what people read with golden files.
func TestText(t *testing.T) {
	t.Parallel()
	codes := map[preview.Code]bool{}
	for name, change := range scenes {
		t.Run(name, func(t *testing.T) {
			d := document(t, change)
			golden(t, name+".txt", d.Text(false))
			if strings.Contains(d.Text(false), "\x1b") {
				t.Error("a name reached the terminal with its escape sequence, or there are colours that nobody asked for")
			}
			if plain := regexp.MustCompile("\x1b\\[[0-9]+m").ReplaceAllString(d.Text(true), ""); plain != d.Text(false) {
				t.Errorf("in colour it says something else:\n%s", plain)
			}
			for _, ns := range d.Namespaces {
				for _, r := range ns.People {
					codes[r.Reason.Code] = true
				}
				for _, j := range ns.Jobs {
					codes[j.Reason.Code] = true
				}
			}
		})
	}
	for _, c := range []preview.Code{
		preview.Direct, preview.Inherited, preview.Invited, preview.Personal, preview.Extra, preview.AccountGone, preview.AccountInactive, preview.SourceGone,
		preview.Configuration, preview.Archived, preview.MarkedForDeletion, preview.Expired, preview.LinkExpired, preview.LinkEnded, preview.Left, preview.Moved,
		preview.LowerLevel, preview.NotGiven, preview.Delivered,
	} {
		if !codes[c] {
			t.Errorf("no scene has the reason %s", c)
		}
	}
	if codes[preview.Unexplained] || codes[preview.NoMember] {
		t.Error("a scene is not explained, though all is known")
	}
}

// TestJSON holds the shape of the document: fields may be added to it, and none may go.
func TestJSON(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"members", "ci", "held"} {
		text, err := json.MarshalIndent(document(t, scenes[name]), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", string(text)+"\n")
	}
}

// TestOnly: a filter shows what it is about, and nothing else, and leaves the rest as it was.
func TestOnly(t *testing.T) {
	t.Parallel()
	d := document(t, scenes["members"])
	whole := d.Text(false)
	one := d.Only(preview.Filter{Namespace: "haw-world"})
	if len(one.Namespaces) != 1 || one.Namespaces[0].Name != "haw-world" || one.Summary.Writes != d.Summary.Writes {
		t.Errorf("of one namespace:\n%s", one.Text(false))
	}
	seen := 0
	for _, ns := range d.Only(preview.Filter{User: 4}).Namespaces {
		if len(ns.Jobs)+len(ns.Writes)+len(ns.Deliveries) > 0 {
			t.Errorf("of one person: %+v", ns)
		}
		for _, r := range ns.People {
			if seen++; r.User.ID != 4 {
				t.Errorf("of carol: %+v", r)
			}
		}
	}
	if seen == 0 {
		t.Error("nothing of carol")
	}
	if none := d.Only(preview.Filter{Namespace: "nowhere"}); len(none.Namespaces) != 0 {
		t.Errorf("of no namespace: %v", none.Namespaces)
	}
	if d := cmp.Diff(whole, d.Text(false)); d != "" {
		t.Errorf("a filter changed the document:\n%s", d)
	}
}

package authz_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/authztest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// reasons are why a Gap can have something absent, and what of it a text says.
var reasons = map[authz.Absence]string{
	authz.AbsentPlan: "the integrator is in mode plan", authz.AbsentHeld: "an approval of the cluster's administrators", authz.AbsentUnwritten: "it is being written",
	authz.AbsentFailed: "it could not be written", authz.AbsentTerminating: "the namespace is being deleted", authz.AbsentForeign: "that was not made from GitLab",
	authz.AbsentNoRole: "the cluster has no such ClusterRole", authz.AbsentNotBindable: "the integrator may not give that ClusterRole",
	authz.AbsentUnread: "GitLab could not be read completely", authz.AbsentUnknown: "why is not known here",
}

// randomGaps makes gaps for some of the sources: whole ones, some roles, and some people.
func randomGaps(r *rand.Rand, p authz.Policy, s *authz.Snapshot) map[authz.SourceID]authz.Gap {
	why := func() authz.Absence { return slices.Sorted(maps.Keys(reasons))[r.IntN(len(reasons))] }
	out := map[authz.SourceID]authz.Gap{}
	for _, src := range p.Sources(s) {
		switch r.IntN(4) {
		case 0:
			out[src.ID] = authz.Gap{All: why()}
		case 1:
			var g authz.Gap
			for _, role := range append(p.ClusterRoles(), "") {
				l := authz.Lack{ClusterRole: role, Why: why()}
				if r.IntN(2) == 0 {
					l.Users = []int64{}
					for u := range int64(12) {
						if r.IntN(3) == 0 {
							l.Users = append(l.Users, u)
						}
					}
				}
				g.Lacks = append(g.Lacks, l)
			}
			out[src.ID] = g
		}
	}
	return out
}

// lacks returns why somebody lacks a right that GitLab gives them, by the words of Gap alone.
func lacks(v authz.View, gone map[string]bool, id authz.SourceID, role string, user int64) authz.Absence {
	g := v.Gaps()[id]
	why := g.All
	for _, l := range g.Lacks {
		if l.ClusterRole == role && (l.Users == nil || slices.Contains(l.Users, user)) {
			why = cmp.Or(why, l.Why)
		}
	}
	if gone[role] {
		why = cmp.Or(why, authz.AbsentNoRole)
	}
	return why
}

// TestExplanationsAreTrue is the law of docs/adr/0097: for whatever GitLab gives and the cluster has of it, nobody hears that their
// role does not allow what it allows, everybody hears why the cluster lacks it, only namespaces with rights in the cluster
// are listed, and all of these, and only people who have the right in the cluster are named.
func TestExplanationsAreTrue(t *testing.T) {
	kinds := map[string]int{}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 97))
		s := authztest.Snapshot(r)
		p := newPolicy(t, func(pc *authz.PolicyConfig) {
			pc.Extra = []authz.ExtraRole{{Source: authz.GroupID(1), Below: true, ClusterRole: "cleaner", Levels: []authz.Level{authz.Reporter, authz.Developer, authz.Maintainer}}}
		})
		names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
		gone := map[string]bool{}
		for _, role := range p.ClusterRoles() {
			gone[role] = r.IntN(6) == 0
		}
		all := rules()
		all["cleaner"] = []authz.Rule{{Verbs: []string{"delete"}, Groups: []string{""}, Resources: []string{"pods"}}}
		maps.DeleteFunc(all, func(role string, _ []authz.Rule) bool { return gone[role] })
		v := authz.NewView(s, p, names).WithRules(all).WithoutRoles(gone).WithGaps(randomGaps(r, p, s))
		for range 4 {
			explainAll(t, r, v, gone, all, kinds)
			gaps := maps.Clone(v.Gaps()) // few changes, and many
			for id, g := range randomGaps(r, p, s) {
				if r.IntN(4) > 0 {
					gaps[id] = g
				} else {
					delete(gaps, id)
				}
			}
			v = v.WithGaps(gaps)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("texts: %v", kinds)
	for _, kind := range []string{"allowed", "not read", "refused", "helper", "listed", "counted"} {
		if kinds[kind] < 200 {
			t.Errorf("only %d texts of the kind %q", kinds[kind], kind)
		}
	}
}

// explainAll asks about everybody: in each namespace, and for the list.
func explainAll(t *testing.T, r *rand.Rand, v authz.View, gone map[string]bool, rules map[string][]authz.Rule, kinds map[string]int) {
	t.Helper()
	has := map[int64]map[authz.SourceID][]string{} // person, source: ClusterRoles by GitLab
	grants, _ := v.Policy.Grants(v.Snapshot, v.Policy.Sources(v.Snapshot), now)
	for _, g := range grants {
		for _, u := range g.Users {
			if has[u] == nil {
				has[u] = map[authz.SourceID][]string{}
			}
			if !slices.Contains(has[u][g.Source], g.ClusterRole) {
				has[u][g.Source] = append(has[u][g.Source], g.ClusterRole)
			}
		}
	}
	allows := func(role string, q authz.Question) bool {
		return slices.ContainsFunc(rules[role], func(r authz.Rule) bool { return r.Allows(q) })
	}
	for user, sources := range has {
		for id, roles := range sources {
			q := authz.Question{Namespace: v.Namespace[id], Verb: []string{"get", "list", "delete"}[r.IntN(3)], Resource: []string{"pods", "secrets", "nodes"}[r.IntN(3)]}
			text := v.User(user, q, now)
			checkRefusal(t, v, gone, id, user, roles, q, allows, text, kinds)
			_, ask, _ := strings.Cut(text, " (ask ")
			ask, _, _ = strings.Cut(ask, ")")
			for name := range strings.SplitSeq(ask, ", ") {
				for other, u := range v.Snapshot.Users {
					if u.Username != name {
						continue
					}
					kinds["helper"]++
					if !slices.ContainsFunc(has[other][id], func(role string) bool { return allows(role, q) && lacks(v, gone, id, role, other) == "" }) {
						t.Errorf("%s is named and has no such right in the cluster: %s", name, text)
					}
				}
			}
		}
		checkList(t, v, gone, user, sources, kinds)
	}
}

func checkRefusal(t *testing.T, v authz.View, gone map[string]bool, id authz.SourceID, user int64, roles []string, q authz.Question, allows func(string, authz.Question) bool, text string, kinds map[string]int) {
	t.Helper()
	var allowed bool // by rules, or perhaps by those of a role that does not exist
	var why []authz.Absence
	there := false
	for _, role := range roles {
		switch lack := lacks(v, gone, id, role, user); {
		case allows(role, q):
			allowed, there, why = true, there || lack == "", append(why, cmp.Or(lack, authz.AbsentUnknown))
		case gone[role]: // what it allowed is not known any more
			why = append(why, lack)
		}
	}
	if there { // they have one of them in the cluster: why another one is not there is no reason
		why = []authz.Absence{authz.AbsentUnknown}
	}
	unread := false
	for _, role := range roles {
		unread = unread || !allowed && gone[role]
	}
	denies := strings.Contains(text, "does not allow") || strings.Contains(text, "no GitLab role there allows") || strings.Contains(text, " needs ") || strings.Contains(text, "nobody may")
	switch {
	case allowed || unread:
		if denies {
			t.Errorf("user %d with %v in %s: %s", user, roles, id, text)
		}
		if strings.Contains(text, ", which allows ") != allowed {
			t.Errorf("user %d with %v in %s (allowed: %v): %s", user, roles, id, allowed, text)
		}
		if !slices.ContainsFunc(why, func(a authz.Absence) bool {
			return reasons[a] != "" && strings.Contains(text, reasons[a]) || a == authz.AbsentUnknown && strings.Contains(text, "is not known here")
		}) {
			t.Errorf("user %d with %v in %s, which is absent by %v: %s", user, roles, id, why, text)
		}
		kinds[map[bool]string{true: "allowed", false: "not read"}[allowed]]++
	case !denies:
		t.Errorf("user %d with %v in %s: %s", user, roles, id, text)
	default:
		kinds["refused"]++
	}
}

// checkList reads the list of a person's namespaces.
func checkList(t *testing.T, v authz.View, gone map[string]bool, user int64, sources map[authz.SourceID][]string, kinds map[string]int) {
	t.Helper()
	text := v.User(user, authz.Question{Verb: "list", Resource: "namespaces"}, now)
	_, list, _ := strings.Cut(text, "Your namespaces: ")
	list, _, _ = strings.Cut(list, ".")
	var listed, want []string
	for part := range strings.SplitSeq(list, "; ") {
		namespaces, role, ok := strings.Cut(strings.TrimSuffix(part, ")"), " (")
		for ns := range strings.SplitSeq(namespaces, ", ") {
			if ok {
				listed = append(listed, ns+" "+role)
			}
		}
	}
	counts := map[authz.Absence]int{}
	for id, roles := range sources {
		for _, role := range roles {
			if why := lacks(v, gone, id, role, user); why != "" {
				counts[why]++
			} else {
				want = append(want, v.Namespace[id]+" "+role)
			}
		}
	}
	slices.Sort(listed)
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Errorf("user %d: listed %v, want %v: %s", user, listed, want, text)
	}
	for why, n := range counts {
		are := "rights that are"
		if n == 1 {
			are = "right that is"
		}
		if !strings.Contains(text, fmt.Sprintf(" GitLab gives you %d %s not in the cluster yet", n, are)) || !strings.Contains(text, reasons[why]) {
			t.Errorf("user %d: %d rights are absent by %q: %s", user, n, why, text)
		}
		kinds["counted"]++
	}
	if strings.Count(text, "GitLab gives you") != len(counts) {
		t.Errorf("user %d: want %v: %s", user, counts, text)
	}
	kinds["listed"] += len(listed)
}

var updateGolden = flag.Bool("update-golden", false, "write testdata/absences.txt anew")

// TestTextsOfAbsence shows what is said for each reason, of the whole namespace and of one right: to a Maintainer, to a Developer who
// would need more, to CI, and in the list.
func TestTextsOfAbsence(t *testing.T) {
	s, p := world(), policy(t)
	names, _ := authz.AssignNames(p.Sources(s), nil, nil, nil)
	all := rules()
	all[kubename.CIClusterRole] = []authz.Rule{{Verbs: []string{"*"}, Groups: []string{"*"}, Resources: []string{"pods"}}}
	view := authz.NewView(s, p, names).WithRules(all)
	var b strings.Builder
	show := func(title string, v authz.View) {
		fmt.Fprintf(&b, "# %s\n", title)
		q := authz.Question{Namespace: "haw-lab-world", Verb: "delete", Resource: "pods"}
		for _, text := range []string{
			v.User(alice, q, now), v.User(bob, q, now), v.User(alice, authz.Question{Verb: "list", Resource: "namespaces"}, now),
			v.CIServiceAccount("haw-lab-world", q), v.CIJob(10, q), v.CIJob(10, authz.Question{Verb: "list", Resource: "nodes"}),
		} {
			b.WriteString(text + "\n")
		}
		b.WriteByte('\n')
	}
	show("nothing is known of the cluster", view)
	show("nothing is known of the cluster, nor of the ClusterRoles", view.WithRules(nil))
	show("all is there, for all that is known", view.WithGaps(map[authz.SourceID]authz.Gap{}))
	show("no ClusterRole exists", view.WithGaps(map[authz.SourceID]authz.Gap{}).WithRules(nil).WithoutRoles(map[string]bool{"edit": true, "view": true, kubename.CIClusterRole: true}))
	for _, why := range []authz.Absence{authz.AbsentPlan, authz.AbsentHeld, authz.AbsentUnwritten, authz.AbsentFailed, authz.AbsentForeign, authz.AbsentUnread} {
		show(string(why)+", the namespace", view.WithGaps(map[authz.SourceID]authz.Gap{authz.ProjectID(10): {All: why}}))
	}
	for _, why := range []authz.Absence{authz.AbsentPlan, authz.AbsentUnwritten, authz.AbsentFailed, authz.AbsentTerminating, authz.AbsentForeign, authz.AbsentNoRole, authz.AbsentNotBindable, authz.AbsentUnread} {
		show(string(why)+", the right", view.WithGaps(map[authz.SourceID]authz.Gap{authz.ProjectID(10): {Lacks: []authz.Lack{{ClusterRole: "edit", Why: why, Users: []int64{alice}}, {Why: why}}}}))
	}
	file := filepath.Join("testdata", "absences.txt")
	if *updateGolden {
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (run the test with -update-golden)", err)
	}
	if string(want) != b.String() {
		t.Errorf("the texts differ from %s; got\n%s", file, b.String())
	}
}

// TestCIOfAnArchivedProject: its ServiceAccount and its jobs have no rights, whatever the ClusterRole allows.
func TestCIOfAnArchivedProject(t *testing.T) {
	s := world()
	pr := s.Projects[10]
	pr.Archived = true
	s.Projects[10] = pr
	v := authz.NewView(s, policy(t), map[authz.SourceID]string{authz.ProjectID(10): "ns"}).WithGaps(map[authz.SourceID]authz.Gap{})
	q := authz.Question{Namespace: "ns", Verb: "get", Resource: "pods"}
	for _, got := range []string{v.CIServiceAccount("ns", q), v.CIJob(10, q)} {
		if !strings.HasSuffix(got, "its CI has no rights meanwhile.") {
			t.Error(got)
		}
	}
}

// TestCIBeforeAnythingIsKnown: nothing is promised.
func TestCIBeforeAnythingIsKnown(t *testing.T) {
	got := authz.View{}.CIServiceAccount("ns", authz.Question{Namespace: "ns", Verb: "get", Resource: "pods"})
	if want := `the CI of namespace "ns" has no right there to get pods, or the cluster does not have it yet. Ask the cluster's administrators.`; got != want {
		t.Error(got)
	}
}

// TestDocsExplainEachReason: docs/user.md has a line for each reason, in the words that are said.
func TestDocsExplainEachReason(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "user.md"))
	if err != nil {
		t.Fatal(err)
	}
	texts, err := os.ReadFile(filepath.Join("testdata", "absences.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(page)) {
		if row, ok := strings.CutPrefix(line, "  | `"); ok {
			row, _, _ = strings.Cut(row, "`")
			rows = append(rows, row)
			if !strings.Contains(string(texts), row) {
				t.Errorf("nobody says %q", row)
			}
		}
	}
	for why, words := range reasons {
		if why == authz.AbsentHeld {
			words = "it waits for its turn"
		}
		if !slices.ContainsFunc(rows, func(row string) bool { return strings.Contains(row, words) }) {
			t.Errorf("docs/user.md does not explain %q", words)
		}
	}
}

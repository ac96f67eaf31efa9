package authz_test

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/publicsuffix"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

var update = flag.Bool("update", false, "write tlds.txt anew")

// listed returns the names in tlds.txt and its first line.
func listed(t *testing.T) (head string, names []string) {
	t.Helper()
	content, err := os.ReadFile("tlds.txt")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(content), "\n")
	return head, strings.Fields(rest)
}

// TestTopLevelDomainsAreThoseOfTheLibrary: the file is what golang.org/x/net/publicsuffix holds, with its date.
func TestTopLevelDomainsAreThoseOfTheLibrary(t *testing.T) {
	want := "# Top-level domains, from golang.org/x/net/publicsuffix: " + publicsuffix.List.String()
	if *update {
		all := append([]string{want}, libraryDomains(t)...)
		if err := os.WriteFile("tlds.txt", []byte(strings.Join(all, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	head, names := listed(t)
	if head != want {
		t.Errorf("tlds.txt is of %q, the library of %q: go test ./authz -run TopLevelDomains -update", head, want)
	}
	if len(names) < 1400 || !slices.IsSorted(names) {
		t.Errorf("%d names, sorted: %v", len(names), slices.IsSorted(names))
	}
	for _, n := range names {
		if _, icann := publicsuffix.PublicSuffix(n); !icann {
			t.Errorf("the library knows no top-level domain %q", n)
		}
	}
	if !*update && !slices.Equal(names, libraryDomains(t)) {
		t.Error("tlds.txt has not all of the library's")
	}
}

// libraryDomains reads the library's table: it can be asked about a name, not for all of them.
func libraryDomains(t *testing.T) []string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/net").Output()
	if err != nil {
		t.Fatalf("finding golang.org/x/net: %v", err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "publicsuffix", "table_test.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Names[0].Name != "rules" {
			return true
		}
		for _, e := range v.Values[0].(*ast.CompositeLit).Elts {
			rule, err := strconv.Unquote(e.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			labels := strings.Split(rule, ".")
			name := labels[len(labels)-1]
			if _, icann := publicsuffix.PublicSuffix(name); icann {
				names = append(names, name)
			}
		}
		return false
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// TestReservedNames: names that mean something to others than GitLab's users.
func TestReservedNames(t *testing.T) {
	for _, n := range []string{
		"com", "org", "de", "zz", "dev", "app", "shop", "xn--p1ai", "xn--anything", "arpa", "onion", "svc", "cluster", "local", "pod", "localhost", "internal",
		"intern", "home", "corp", "lan", "test", "default", "kube-system", "kube-", "gl-k8s-integrator", "kubernetes", "cert-manager", "istio-system", "argocd",
		"flux-system", "ingress-nginx", "monitoring", "kyverno", "gatekeeper-system", "openshift-monitoring", "cattle-system", "knative-serving", "gitlab-agent-x",
	} {
		if authz.Reserved(n) == "" {
			t.Errorf("%q is not reserved", n)
		}
	}
	for _, n := range []string{"haw", "haw-com", "com-g9", "de-u3", "svc-web", "a", "a1", "1a", "team-a", "kube", "xn-a", "istio", "cert-manager-team"} {
		if why := authz.Reserved(n); why != "" {
			t.Errorf("%q is reserved: %s", n, why)
		}
	}
	_, tlds := listed(t)
	for _, n := range tlds {
		if authz.Reserved(n) == "" {
			t.Errorf("the top-level domain %q is not reserved", n)
		}
	}
}

// TestReservedExpression: the other form of the rule says the same.
func TestReservedExpression(t *testing.T) {
	names, expression := authz.ReservedExpression()
	further := regexp.MustCompile(expression)
	_, some := listed(t)
	some = append(some, names...)
	for _, n := range slices.Clone(some) {
		some = append(some, n+"-g7", "x-"+n, n+"x", n[:len(n)-1])
	}
	for _, n := range append(some, "kube-x", "kube", "kube-", "xn--x", "ab", "a1", "abc\n", "") {
		if got := slices.Contains(names, n) || further.MatchString(n); got != (authz.Reserved(n) != "") {
			t.Errorf("%q: the expression says %v, Reserved %q", n, got, authz.Reserved(n))
		}
	}
	for _, n := range names {
		if further.MatchString(n) {
			t.Errorf("%q is in both parts", n)
		}
	}
}

// TestNoFreshSourceGetsAReservedName is the law, for groups, projects and people: each reserved name as a path, spelled in
// many ways.
func TestNoFreshSourceGetsAReservedName(t *testing.T) {
	names, _ := authz.ReservedExpression()
	_, tlds := listed(t)
	names = append(append(names, tlds...), "kube-system", "xn--p1ai", "openshift-x", "cattle-system", "istio-system", "gitlab-agent-prod", "qq")
	rnd := rand.New(rand.NewPCG(1, 2))
	kinds := []func(int64) authz.SourceID{authz.GroupID, authz.ProjectID, authz.UserID}
	var sources []authz.Source
	for i, n := range names {
		spelled := strings.Map(func(r rune) rune {
			switch rnd.IntN(4) {
			case 0:
				return []rune(strings.ToUpper(string(r)))[0]
			case 1:
				if r == '-' {
					return []rune("/_.-")[rnd.IntN(4)]
				}
			}
			return r
		}, n)
		for j, kind := range kinds {
			sources = append(sources, authz.Source{ID: kind(int64(3*i + j + 1)), Path: []string{n, spelled, "_" + spelled + "."}[(i+j)%3]})
		}
	}
	got, findings := authz.AssignNames(sources, nil, nil, nil)
	if len(got) != len(sources) || len(findings) != 0 {
		t.Fatalf("%d names of %d, findings %v", len(got), len(sources), findings)
	}
	for _, s := range sources {
		name := got[s.ID]
		if why := authz.Reserved(name); why != "" {
			t.Errorf("%s %q got %q, though %s", s.ID, s.Path, name, why)
		}
		if suffix := fmt.Sprintf("-%c%d", s.ID.Kind[0], s.ID.ID); !strings.HasSuffix(name, suffix) {
			t.Errorf("%s %q got %q without its suffix", s.ID, s.Path, name)
		}
	}
}

// TestGivenNamesThatAreReserved: they stay, and a finding says so.
func TestGivenNamesThatAreReserved(t *testing.T) {
	sources := []authz.Source{
		{ID: authz.GroupID(9), Path: "com"},
		{ID: authz.UserID(3), Path: "de"},
		{ID: authz.GroupID(4), Path: "renamed"},
		{ID: authz.GroupID(5), Path: "intra"},
		{ID: authz.GroupID(6), Path: "fine"},
		{ID: authz.GroupID(7), Path: "svc"},
	}
	have := map[authz.SourceID]string{authz.GroupID(9): "com", authz.GroupID(4): "monitoring", authz.GroupID(5): "intra", authz.GroupID(6): "fine"}
	names, findings := authz.AssignNames(sources, have, nil, []string{"Intra"})
	for id, want := range map[authz.SourceID]string{
		authz.GroupID(9): "com", authz.GroupID(4): "monitoring", authz.GroupID(5): "intra", authz.GroupID(6): "fine",
		authz.UserID(3): "de-u3", authz.GroupID(7): "svc-g7",
	} {
		if names[id] != want {
			t.Errorf("%s has %q, want %q", id, names[id], want)
		}
	}
	slices.SortFunc(findings, func(a, b authz.Finding) int { return cmp.Compare(a.Text, b.Text) })
	for i, want := range []string{`"com" of group/9`, `"intra" of group/5`, `"monitoring" of group/4`} {
		if i >= len(findings) || findings[i].Code != "namespace_name_reserved" || !strings.Contains(findings[i].Text, want) || !strings.Contains(findings[i].Text, "rbacsync.adopt") {
			t.Fatalf("findings %v lack %s", findings, want)
		}
	}
	if len(findings) != 3 {
		t.Errorf("%d findings: %v", len(findings), findings)
	}
}

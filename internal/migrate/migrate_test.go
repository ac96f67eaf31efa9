package migrate

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// validPath reports whether GitLab could have a path, as far as its parts go.
func validPath(s string) bool {
	return s != "" && !strings.HasPrefix(s, "/") && !strings.HasSuffix(s, "/") && !strings.Contains(s, "//")
}

// TestDecodeFindsEveryPath: for all short paths, Decode finds exactly those that have the label, so that no ambiguity is overlooked.
func TestDecodeFindsEveryPath(t *testing.T) {
	t.Parallel()
	byLabel := map[string][]string{}
	var all func(path string)
	all = func(path string) {
		if validPath(path) {
			byLabel[Encode(path)] = append(byLabel[Encode(path)], path)
		}
		if len(path) < 8 {
			for _, c := range "a_/" {
				all(path + string(c))
			}
		}
	}
	all("")
	ambiguous := 0
	for label, want := range byLabel {
		if len(label) > 8 { // a longer path may have it, too
			continue
		}
		got := Decode(label, 1000)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q is read as %q, want %q", label, got, want)
		}
		if len(want) > 1 {
			ambiguous++
			if len(Decode(label, 2)) != 2 {
				t.Errorf("%q: a limit hides that there are several", label)
			}
		}
	}
	if ambiguous < 50 {
		t.Errorf("only %d labels with several paths were found", ambiguous)
	}
	for _, label := range []string{"", "_", "_a", "a_", "a_b_"} {
		if got := Decode(label, 9); label != "a_" && len(got) > 0 && !slices.ContainsFunc(got, validPath) {
			t.Errorf("%q is read as %q", label, got)
		}
	}
	if got := Decode(strings.Repeat("_", 63), 4); len(got) != 4 {
		t.Errorf("a long label: %q", got)
	}
}

func TestOldNames(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"haw/World": "haw-world", "foo_bar": "foo-bar", "foo.bar": "foo-bar", "foo/bar": "foo-bar", "Kube-System": "kube-system", "Straße": "strasse",
		"_course": "", "course-": "", "é-team": "", strings.Repeat("a", 40) + "/" + strings.Repeat("b", 40): "",
	} {
		name, ok := OldName(path)
		if ok != (want != "") || ok && name != want {
			t.Errorf("%q: %q, %v, want %q", path, name, ok, want)
		}
	}
}

func TestPartsOfCertificateNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]part{
		"shop-42-production":                 {{"shop", 42, "production"}},
		"shop-42":                            {{"shop", 42, ""}},
		"shop-1-2-production":                {{"shop-1", 2, "production"}}, // a slug begins with a letter
		"shop-1-a-2-production":              {{"shop", 1, "a-2-production"}, {"shop-1-a", 2, "production"}},
		"shop":                               nil,
		"42-production":                      nil,
		"shop-007-production":                nil,
		"shop-99999999999999999999":          nil,
		"shop-42-" + strings.Repeat("a", 25): nil,
	} {
		if got := parts(name); !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if got := slug(strings.Repeat("Ab.", 30)); len(got) > 63 || got != strings.Repeat("ab-", 21)[:62] {
		t.Errorf("slug: %q", got)
	}
}

// scene is a GitLab and a cluster.
type scene struct {
	groups, projects, users map[int64]string // paths
	namespaces              []corev1.Namespace
	accounts                []corev1.ServiceAccount
	bindings                []rbacv1.RoleBinding
	change                  func(*Input)
}

var (
	long  = time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC) // sources were made then
	later = long.Add(time.Hour)                         // and namespaces then
)

func (s scene) input(t *testing.T) Input {
	t.Helper()
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource, authz.ProjectSource, authz.UserSource}})
	if err != nil {
		t.Fatal(err)
	}
	snap := &authz.Snapshot{Issuer: "https://gitlab.example.org", Taken: later, Admin: true, Users: map[int64]authz.User{}, Groups: map[int64]authz.Group{}, Projects: map[int64]authz.Project{}}
	for id, path := range s.groups {
		snap.Groups[id] = authz.Group{ID: id, Path: path, CreatedAt: long}
	}
	for id, path := range s.projects {
		snap.Projects[id] = authz.Project{ID: id, Path: path, CreatedAt: long}
	}
	for id, name := range s.users {
		snap.Users[id] = authz.User{ID: id, Username: name, State: authz.StateActive, Human: true, CreatedAt: long}
	}
	in := Input{
		From: []Origin{Integrator2018, Certificate}, Namespaces: slices.Clone(s.namespaces), Accounts: s.accounts, Bindings: s.bindings, Foreign: map[rbacsync.Key]bool{},
		Known: map[authz.SourceID]string{}, Snapshot: snap, Policy: policy, Now: later,
	}
	if s.change != nil {
		s.change(&in)
	}
	return in
}

func namespace(name string, labels ...string) corev1.Namespace {
	ns := corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(later), Labels: map[string]string{}}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		ns.Labels[k] = v
	}
	return ns
}

// of returns a namespace as the integrator of 2018 made it.
func of(name, path string, more ...string) corev1.Namespace {
	return namespace(name, append(more, LabelOrigin+"="+Encode(path))...)
}

func account(ns, name string) corev1.ServiceAccount {
	return corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
}

func bound(ns, name, role, kind, subject string) rbacv1.RoleBinding {
	return rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{{Kind: kind, Name: subject}}}
}

func managed(ns string) ([]corev1.ServiceAccount, []rbacv1.RoleBinding) {
	return []corev1.ServiceAccount{account(ns, ns+"-service-account")}, []rbacv1.RoleBinding{bound(ns, "gitlab-"+ns, "admin", "ServiceAccount", ns+"-service-account")}
}

func certificate(s scene, names ...string) scene {
	for _, name := range names {
		a, b := managed(name)
		s.accounts, s.bindings = append(s.accounts, a...), append(s.bindings, b...)
		if !slices.ContainsFunc(s.namespaces, func(n corev1.Namespace) bool { return n.Name == name }) {
			s.namespaces = append(s.namespaces, namespace(name))
		}
	}
	return s
}

// scenes: for each, one line for each namespace: "name -> source" for what is proposed, with notes; "name: codes, of sources" for
// what a person decides.
var scenes = map[string]struct {
	scene
	want []string
}{
	"plain": {scene{
		groups: map[int64]string{7: "haw", 8: "haw/lab_1"}, projects: map[int64]string{42: "haw/World"}, users: map[int64]string{3: "bob.b"},
		namespaces: []corev1.Namespace{of("haw", "haw"), of("haw-lab-1", "haw/lab_1"), of("haw-world", "haw/World"), of("bob-b", "bob.b"), namespace("kube-system"), namespace("theirs", "app=x")},
	}, []string{"bob-b: personal_namespace, of user/3", "haw -> group/7", "haw-lab-1 -> group/8", "haw-world -> project/42"}},
	"a label with several paths, both there": {scene{
		groups: map[int64]string{7: "a/_b", 8: "a_/b"}, namespaces: []corev1.Namespace{of("a--b", "a/_b")},
	}, []string{"a--b: ambiguous_label, of group/7 group/8"}},
	"a label with several paths, one there": {scene{
		groups: map[int64]string{8: "a_/b"}, namespaces: []corev1.Namespace{of("a--b", "a_/b")},
	}, []string{"a--b: ambiguous_label, of group/8"}},
	"the path of somebody else in the label": {scene{
		groups: map[int64]string{7: "wealth"}, users: map[int64]string{3: "mallory"}, namespaces: []corev1.Namespace{of("mallory", "wealth")},
	}, []string{"mallory: name_differs shared_name, of group/7"}},
	"the same, beside the real one": {scene{
		groups: map[int64]string{7: "wealth"}, users: map[int64]string{3: "mallory"}, namespaces: []corev1.Namespace{of("mallory", "wealth"), of("wealth", "wealth")},
	}, []string{"mallory: name_differs several_namespaces shared_name, of group/7", "wealth: several_namespaces, of group/7"}},
	"a path that makes the same name": {scene{
		groups: map[int64]string{7: "foo-bar"}, projects: map[int64]string{42: "foo/bar"}, namespaces: []corev1.Namespace{of("foo-bar", "foo/bar")},
	}, []string{"foo-bar: shared_name, of project/42"}},
	"with a number": {scene{
		groups: map[int64]string{7: "foo-bar"}, projects: map[int64]string{42: "foo/bar"}, namespaces: []corev1.Namespace{of("foo-bar", "foo-bar"), of("foo-bar-1", "foo/bar")},
	}, []string{"foo-bar -> group/7", "foo-bar-1 -> project/42 (suffixed)"}},
	"with a number, and nobody has the name": {scene{
		projects: map[int64]string{42: "foo/bar"}, namespaces: []corev1.Namespace{of("foo-bar-1", "foo/bar")},
	}, []string{"foo-bar-1: name_differs, of project/42"}},
	"with a number that is a path, too": {scene{
		groups: map[int64]string{7: "foo-bar", 9: "foo-bar-1"}, projects: map[int64]string{42: "foo/bar"}, namespaces: []corev1.Namespace{of("foo-bar", "foo-bar"), of("foo-bar-1", "foo/bar")},
	}, []string{"foo-bar: shared_name, of group/7", "foo-bar-1: shared_name, of project/42"}},
	"gone": {scene{namespaces: []corev1.Namespace{of("old", "old"), namespace("odd", LabelOrigin+"=_x")}}, []string{"odd: source_gone, of", "old: source_gone, of"}},
	"other capitals": {scene{
		groups: map[int64]string{7: "Haw"}, namespaces: []corev1.Namespace{of("haw", "haw")},
	}, []string{"haw: case_differs, of group/7"}},
	"ignored": {scene{
		groups: map[int64]string{7: "haw"}, namespaces: []corev1.Namespace{of("haw", "haw", LabelIgnored+"="), namespace("toolbox", LabelIgnored+"=true")},
	}, []string{"haw: ignored, of group/7", "toolbox: ignored, of"}},
	"two for one": {scene{
		groups: map[int64]string{7: "haw"}, namespaces: []corev1.Namespace{of("haw", "haw"), of("haw2", "haw")},
	}, []string{"haw: several_namespaces, of group/7", "haw2: name_differs several_namespaces, of group/7"}},
	"older than the group": {scene{
		groups: map[int64]string{7: "haw"}, namespaces: []corev1.Namespace{of("haw", "haw")},
		change: func(in *Input) {
			g := in.Snapshot.Groups[7]
			g.CreatedAt = later.Add(time.Hour)
			in.Snapshot.Groups[7] = g
		},
	}, []string{"haw: older_than_source, of group/7"}},
	"of an age that nobody tells": {scene{
		groups: map[int64]string{7: "haw"}, namespaces: []corev1.Namespace{of("haw", "haw")},
		change: func(in *Input) {
			g := in.Snapshot.Groups[7]
			g.CreatedAt = time.Time{}
			in.Snapshot.Groups[7] = g
		},
	}, []string{"haw: unknown_age, of group/7"}},
	"reserved": {scene{
		groups:     map[int64]string{7: "Kube-System", 8: "monitoring", 9: "dc1", 10: "ours-x"},
		namespaces: []corev1.Namespace{of("kube-system", "Kube-System"), of("monitoring", "monitoring"), of("dc1", "dc1"), of("ours-x", "ours-x")},
		change:     func(in *Input) { in.Reserved = []string{"dc1", "ours-*"} },
	}, []string{"dc1: reserved_name, of group/9", "kube-system: reserved_name, of group/7", "monitoring: reserved_name, of group/8", "ours-x: reserved_name, of group/10"}},
	"not active": {scene{
		users: map[int64]string{3: "bob"}, namespaces: []corev1.Namespace{of("bob", "bob")},
		change: func(in *Input) { u := in.Snapshot.Users[3]; u.State = "blocked"; in.Snapshot.Users[3] = u },
	}, []string{"bob: left_out, of user/3"}},
	"not read": {scene{
		groups: map[int64]string{7: "haw"}, namespaces: []corev1.Namespace{of("haw", "haw")},
		change: func(in *Input) { in.Snapshot.Missing = map[authz.SourceID]string{authz.GroupID(7): "HTTP 502"} },
	}, []string{"haw: unread_source, of group/7"}},
	"has one already": {scene{
		groups: map[int64]string{7: "haw"}, namespaces: []corev1.Namespace{of("haw", "haw")},
		change: func(in *Input) { in.Known[authz.GroupID(7)] = "haw-g7" },
	}, []string{"haw: has_namespace, of group/7"}},
	"ours already, marked wrongly, of another program, being deleted": {scene{
		groups: map[int64]string{7: "haw", 8: "b", 9: "cde", 10: "fgh"},
		namespaces: []corev1.Namespace{
			of("haw", "haw", kubename.LabelManagedBy+"="+kubename.ManagedBy, kubename.LabelSource+"=group-7"), of("b", "b", kubename.LabelSource+"=group-7"),
			of("cde", "cde", kubename.LabelManagedBy+"=Helm"), of("fgh", "fgh"),
		},
		change: func(in *Input) {
			in.Namespaces[0].Annotations = map[string]string{kubename.AnnotationIssuer: in.Snapshot.Issuer, kubename.AnnotationSource: "group-7"}
			in.Namespaces[3].Status.Phase = corev1.NamespaceTerminating
			in.Known[authz.GroupID(7)] = "haw"
		},
	}, []string{"b: marked_already, of group/8", "cde: other_manager, of group/9", "fgh: terminating, of group/10"}},
	"marked by an administrator": {scene{
		groups: map[int64]string{7: "haw"}, namespaces: []corev1.Namespace{of("haw", "haw", kubename.LabelManagedBy+"="+kubename.ManagedBy)},
	}, []string{"haw -> group/7"}},
	"decided": {scene{
		groups: map[int64]string{7: "haw", 8: "b_c"}, namespaces: []corev1.Namespace{of("haw", "haw"), of("legacy", "x"), of("b-c", "b_c")},
		change: func(in *Input) {
			in.Adopt = []Entry{{"legacy", "group/7", "haw"}, {"b-c", "group/8", ""}}
		},
	}, []string{"haw: decided_elsewhere, of group/7"}},
	"notes": {scene{
		groups: map[int64]string{7: "haw"}, namespaces: []corev1.Namespace{of("haw", "haw")}, accounts: []corev1.ServiceAccount{account("haw", netAdminAccount)},
		change: func(in *Input) { in.Foreign[rbacsync.AccountKey("haw")] = true },
	}, []string{"haw -> group/7 (ci_in_the_way, net_admin)"}},
	"only the other origin": {scene{
		groups: map[int64]string{7: "haw"}, namespaces: []corev1.Namespace{of("haw", "haw")}, change: func(in *Input) { in.From = []Origin{Certificate} },
	}, nil},
	"certificate": {certificate(scene{
		projects:   map[int64]string{42: "haw/Sh_op", 43: "haw/lab-2-x", 44: "haw/api"},
		namespaces: []corev1.Namespace{namespace("lab-2-x-43-production", LabelApp+"=haw-lab-2-x", LabelEnv+"=production"), namespace("api-44", LabelApp+"=haw-api")},
	}, "sh-op-42-production"), []string{"api-44 -> project/44", "lab-2-x-43-production -> project/43", "sh-op-42-production -> project/42"}},
	"certificate, no binding of it": {scene{
		projects: map[int64]string{42: "haw/shop"}, namespaces: []corev1.Namespace{namespace("shop-42-production")}, accounts: []corev1.ServiceAccount{account("shop-42-production", "shop-42-production-service-account")},
	}, nil},
	"certificate, a name that is read in two ways": {certificate(scene{
		projects: map[int64]string{1: "rich/shop", 99: "mallory/shop-1-x"},
	}, "shop-1-x-99-production"), []string{"shop-1-x-99-production: ambiguous_name, of project/1 project/99"}},
	"certificate, the same, and one is gone": {certificate(scene{
		projects: map[int64]string{1: "rich/shop"},
	}, "shop-1-x-99-production"), []string{"shop-1-x-99-production: ambiguous_name, of project/1"}},
	"certificate, the same, with the labels of the other": {scene{
		projects:   map[int64]string{1: "rich/shop"},
		namespaces: []corev1.Namespace{namespace("shop-1-x-99-production", LabelApp+"=mallory-shop-1-x", LabelEnv+"=production")},
	}, []string{"shop-1-x-99-production: label_differs ambiguous_name, of project/1"}},
	"certificate, renamed": {certificate(scene{projects: map[int64]string{42: "haw/store"}}, "shop-42-production"), []string{"shop-42-production: renamed, of project/42"}},
	"certificate, other labels": {scene{
		projects: map[int64]string{42: "haw/shop"}, namespaces: []corev1.Namespace{namespace("shop-42-production", LabelApp+"=x-shop", LabelEnv+"=production")},
	}, []string{"shop-42-production: label_differs, of project/42"}},
	"certificate, gone":       {certificate(scene{}, "shop-42-production"), []string{"shop-42-production: source_gone, of"}},
	"certificate, own name":   {certificate(scene{}, "team-store"), []string{"team-store: unknown_namespace, of"}},
	"certificate, two of one": {certificate(scene{projects: map[int64]string{42: "haw/shop"}}, "shop-42-production", "shop-42-staging"), []string{"shop-42-production: several_namespaces, of project/42", "shop-42-staging: several_namespaces, of project/42"}},
	"both, and they do not agree": {certificate(scene{
		groups: map[int64]string{7: "shop-42-production"}, projects: map[int64]string{42: "haw/shop"}, namespaces: []corev1.Namespace{of("shop-42-production", "shop-42-production")},
	}, "shop-42-production"), []string{"shop-42-production: both_origins, of group/7 project/42"}},
}

func line(it Item, proposed bool) string {
	var sources []string
	for _, e := range it.Entries {
		sources = append(sources, e.Source)
	}
	if !proposed {
		return strings.TrimSpace(fmt.Sprintf("%s: %s, of %s", it.Namespace, strings.Join(it.codes(), " "), strings.Join(sources, " ")))
	}
	text := it.Namespace + " -> " + strings.Join(sources, " ")
	var notes []string
	for _, n := range it.Notes {
		notes = append(notes, string(n.Code))
	}
	if len(notes) > 0 {
		text += " (" + strings.Join(notes, ", ") + ")"
	}
	return text
}

func tell(r Result) (out []string) {
	for _, it := range r.Proposed {
		out = append(out, line(it, true))
	}
	for _, it := range r.Decide {
		out = append(out, line(it, false))
	}
	slices.Sort(out)
	return out
}

// TestPropose: what is proposed and what a person decides, and that every reason there is has its scene.
func TestPropose(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for name, s := range scenes {
		r := Propose(s.input(t))
		slices.Sort(s.want)
		if got := tell(r); !slices.Equal(got, s.want) {
			t.Errorf("%s:\n  %s\nwant\n  %s", name, strings.Join(got, "\n  "), strings.Join(s.want, "\n  "))
		}
		for _, it := range slices.Concat(r.Proposed, r.Decide) {
			for _, x := range slices.Concat(it.Reasons, it.Notes) {
				seen[string(x.Code)] = true
				if x.Text == "" || strings.Contains(x.Text, "%!") {
					t.Errorf("%s: %s has the text %q", name, x.Code, x.Text)
				}
			}
		}
	}
	for _, code := range codes(t) {
		if !seen[code] {
			t.Errorf("no scene has the reason %s", code)
		}
	}
}

// codes returns all reasons there are.
func codes(t *testing.T) (out []string) {
	t.Helper()
	source, err := os.ReadFile("reason.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`Code = "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		out = append(out, m[1])
	}
	if len(out) < 20 {
		t.Fatalf("only %d reasons were found", len(out))
	}
	return out
}

// history simulates the integrator of 2018 on a random GitLab whose users choose paths so that they collide, and, with forged, tenants
// who set labels. It returns what is there afterwards, and who has ever had each namespace, and was first.
func history(r *rand.Rand, t *testing.T, forged, suffixes bool) (Input, map[string]map[authz.SourceID]bool, map[string]authz.SourceID) {
	t.Helper()
	s := scene{groups: map[int64]string{}, projects: map[int64]string{}, users: map[int64]string{}}
	in := s.input(t)
	had, first := map[string]map[authz.SourceID]bool{}, map[string]authz.SourceID{}
	cluster := map[string]*corev1.Namespace{}
	taken := map[string]bool{}
	at := long
	word := func(n int) string {
		var b strings.Builder
		for range 1 + r.IntN(n) {
			b.WriteByte("aaab_-.1"[r.IntN(8)])
		}
		return b.String()
	}
	var all []authz.SourceID
	for i := range int64(3 + r.IntN(9)) {
		at = at.Add(time.Hour)
		var id authz.SourceID
		path := word(3)
		switch r.IntN(3) {
		case 0:
			id = authz.GroupID(i + 1)
		case 1:
			id, path = authz.ProjectID(i+1), path+"/"+word(2)
		default:
			id = authz.UserID(i + 1)
		}
		name, ok := OldName(path)
		if !ok || taken[strings.ToLower(path)] {
			continue
		}
		taken[strings.ToLower(path)] = true
		switch id.Kind {
		case authz.GroupSource:
			in.Snapshot.Groups[id.ID] = authz.Group{ID: id.ID, Path: path, CreatedAt: at}
		case authz.ProjectSource:
			in.Snapshot.Projects[id.ID] = authz.Project{ID: id.ID, Path: path, CreatedAt: at}
		case authz.UserSource:
			in.Snapshot.Users[id.ID] = authz.User{ID: id.ID, Username: path, State: authz.StateActive, Human: true, CreatedAt: at}
		}
		all = append(all, id)
		if suffixes && cluster[name] != nil {
			n := 1
			for cluster[fmt.Sprintf("%s-%d", name, n)] != nil {
				n++
			}
			name = fmt.Sprintf("%s-%d", name, n)
		}
		if cluster[name] == nil {
			ns := namespace(name)
			ns.CreationTimestamp = metav1.NewTime(at.Add(time.Minute))
			cluster[name], had[name], first[name] = &ns, map[authz.SourceID]bool{}, id
		}
		cluster[name].Labels[LabelOrigin] = Encode(path) // taken over, if it was there
		had[name][id] = true
		if r.IntN(8) == 0 { // the source is deleted, and the hook is lost
			delete(in.Snapshot.Groups, id.ID)
			delete(in.Snapshot.Projects, id.ID)
			delete(in.Snapshot.Users, id.ID)
			delete(taken, strings.ToLower(path))
		}
	}
	if forged {
		for _, name := range slices.Sorted(maps.Keys(cluster)) {
			if r.IntN(3) == 0 {
				victim := all[r.IntN(len(all))]
				if path, ok := in.Snapshot.Path(victim); ok {
					cluster[name].Labels[LabelOrigin] = Encode(path)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cluster)) {
		in.Namespaces = append(in.Namespaces, *cluster[name])
	}
	return in, had, first
}

// gone reports whether all but one of these are not in GitLab any more.
func gone(s *authz.Snapshot, had map[authz.SourceID]bool, but authz.SourceID) bool {
	for id := range had {
		if id != but && s.Contains(id) {
			return false
		}
	}
	return true
}

// TestNobodyGetsWhatAnotherHad: whatever paths people choose, in whatever order, and whatever labels tenants forge, a namespace is
// proposed only for the one who alone has had it, never twice, and never by a label that can be read in several ways.
func TestNobodyGetsWhatAnotherHad(t *testing.T) {
	t.Parallel()
	proposed, decide, suffixed := 0, map[Code]int{}, 0
	for seed := range uint64(30000) {
		r := rand.New(rand.NewPCG(seed, 13))
		in, had, first := history(r, t, seed%2 == 0, seed%3 == 0)
		res := Propose(in)
		once := map[string]bool{}
		for _, it := range res.Proposed {
			proposed++
			e := it.Entries[0]
			label := ""
			for i := range in.Namespaces {
				if in.Namespaces[i].Name == it.Namespace {
					label = in.Namespaces[i].Labels[LabelOrigin]
				}
			}
			id, ok := authz.ParseLabel(strings.Replace(e.Source, "/", "-", 1))
			path, known := in.Snapshot.Path(id)
			suffixed += len(it.Notes)
			switch {
			case len(it.Entries) != 1 || !ok || !known || path != e.Path || Encode(path) != label:
				t.Errorf("seed %d: %s is proposed for %+v, GitLab says %q, the label %q", seed, it.Namespace, it.Entries, path, label)
			case len(Decode(label, 2)) != 1:
				t.Errorf("seed %d: %s is proposed by the label %q, which can be read in several ways", seed, it.Namespace, label)
			case len(had[it.Namespace]) != 1 && first[it.Namespace] == id && seed%2 == 0 && gone(in.Snapshot, had[it.Namespace], id):
				// Its first owner's again, by a forged label: whoever had it in between has left no trace.
			case len(had[it.Namespace]) != 1 || !had[it.Namespace][id]:
				t.Errorf("seed %d: %s is proposed for %s, and these have had it: %v", seed, it.Namespace, e.Source, had[it.Namespace])
			case once[e.Source]:
				t.Errorf("seed %d: %s gets two namespaces", seed, e.Source)
			}
			once[e.Source] = true
		}
		for _, it := range res.Decide {
			if len(it.Reasons) == 0 {
				t.Errorf("seed %d: no reason why %s is not proposed", seed, it.Namespace)
			}
			for _, x := range it.Reasons {
				decide[x.Code]++
			}
		}
		if len(res.Proposed)+len(res.Decide) != len(in.Namespaces) {
			t.Errorf("seed %d: of %d namespaces %d are told of", seed, len(in.Namespaces), len(res.Proposed)+len(res.Decide))
		}
		if t.Failed() {
			break
		}
	}
	if proposed < 20000 || suffixed < 20 {
		t.Errorf("only %d were proposed, %d with a number", proposed, suffixed)
	}
	for _, c := range []Code{AmbiguousLabel, NameDiffers, OlderThanSource, SeveralNamespaces, SharedName, SourceGone} {
		if decide[c] < 20 {
			t.Errorf("%s was only seen %d times", c, decide[c])
		}
	}
}

// TestWhatIsNotShownIsWeighed: who asks about one origin alone gets the same verdicts as who asks about both, only fewer of them.
func TestWhatIsNotShownIsWeighed(t *testing.T) {
	t.Parallel()
	for name, s := range scenes {
		in := s.input(t)
		in.From = []Origin{Integrator2018, Certificate}
		both := tell(Propose(in))
		for _, from := range in.From {
			one := in
			one.From = []Origin{from}
			for _, line := range tell(Propose(one)) {
				if !slices.Contains(both, line) {
					t.Errorf("%s, only %s: %s\nof both: %v", name, from, line, both)
				}
			}
		}
	}
}

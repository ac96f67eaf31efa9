package migrate

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/preview"
)

// left is a cluster with everything that both origins leave, and with things of others that look a little like it.
func left() scene {
	s := certificate(scene{
		groups: map[int64]string{7: "haw"}, projects: map[int64]string{42: "haw/store", 43: "haw/world"}, users: map[int64]string{3: "Al_ice", 4: "bob"},
		namespaces: []corev1.Namespace{of("haw", "haw"), of("haw-world", "haw/world")},
		accounts: []corev1.ServiceAccount{
			account("haw", AccountName), account("haw", netAdminAccount), account("haw", "default"), account("haw", "robot"), account("elsewhere", AccountName),
		},
		bindings: []rbacv1.RoleBinding{
			bound("haw", "Al_ice-gitlab-group-master-haw", "gitlab-group-master", "User", "Al_ice"), bound("haw", "al-ice-gitlab-group-reporter-haw", "gitlab-group-reporter", "User", "Al_ice"),
			bound("haw", "bob-gitlab-group-developer-haw", "gitlab-group-developer", "User", "bob"),
			bound("haw", AccountName, "gitlab-project-master", "ServiceAccount", AccountName), bound("haw", netAdminBinding, "psp", "ServiceAccount", netAdminAccount),
			bound("haw", "robot", "edit", "ServiceAccount", "robot"), bound("haw", "bob-edit", "edit", "User", "bob"), bound("haw", "bobs", "edit", "Group", "bobs"),
			bound("haw-world", "-x $(reboot)' ; `id`-edit-haw-world", "edit", "User", "-x $(reboot)' ; `id`"), bound("haw-world", "\x1b[2J\n-edit-haw-world", "edit", "User", "\x1b[2J\n"),
			bound("elsewhere", "bob-edit-elsewhere", "edit", "User", "bob"),
		},
		change: func(in *Input) {
			g := in.Snapshot.Groups[7]
			g.Members = []authz.Member{{User: 3, Level: authz.Developer}}
			in.Snapshot.Groups[7] = g
			in.Foreign[rbacsync.AccountKey("haw")] = true
			in.Foreign[rbacsync.Key{Namespace: "haw", Kind: rbacsync.KindRoleBinding, Name: kubename.CIRoleBinding}] = true
		},
	}, "store-42-production")
	knative := bound("store-42-production", "gitlab-knative-serving-rolebinding", "gitlab-knative-serving-role", "ServiceAccount", "x")
	knative.RoleRef.Kind = "Role"
	s.bindings = append(s.bindings, knative)
	return s
}

// TestLeftovers: what the origins left is named, with what GitLab gives instead, and what others made is not.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	r := Propose(left().input(t))
	var got []string
	for _, l := range r.Leftovers {
		got = append(got, l.String())
	}
	want := []string{
		"haw  RoleBinding Al_ice-gitlab-group-master-haw  gives Al_ice gitlab-group-master; GitLab gives view",
		"haw  RoleBinding al-ice-gitlab-group-reporter-haw  gives Al_ice gitlab-group-reporter; GitLab gives view",
		"haw  RoleBinding bob-gitlab-group-developer-haw  gives bob gitlab-group-developer; GitLab gives nothing",
		"haw  RoleBinding gitlab-serviceaccount  gives gitlab-serviceaccount gitlab-project-master  (has a name of ours)",
		"haw  RoleBinding net-admin-psp-binding  gives net-admin-serviceaccount psp",
		"haw  ServiceAccount gitlab-serviceaccount  (has a name of ours)",
		"haw  ServiceAccount net-admin-serviceaccount",
		"haw-world  RoleBinding ?[2J?-edit-haw-world  gives ?[2J? edit; GitLab gives nothing",
		"haw-world  RoleBinding -x $(reboot)' ; `id`-edit-haw-world  gives -x $(reboot)' ; `id` edit; GitLab gives nothing",
		"store-42-production  Role gitlab-knative-serving-role",
		"store-42-production  RoleBinding gitlab-knative-serving-rolebinding  gives x gitlab-knative-serving-role",
		"store-42-production  RoleBinding gitlab-store-42-production  gives store-42-production-service-account admin",
		"store-42-production  ServiceAccount store-42-production-service-account",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	in := left().input(t)
	in.Account, in.Accounts = "robot", append(in.Accounts, account("haw", "robot"))
	if r := Propose(in); !slices.ContainsFunc(r.Leftovers, func(l Leftover) bool { return l.Kind == "RoleBinding" && l.Name == "robot" }) {
		t.Error("another name of the ServiceAccount of CI jobs is not heeded")
	}
}

// TestTheCommandsAreSafe: a shell that runs the commands deletes exactly what is named, whatever names tenants have chosen.
func TestTheCommandsAreSafe(t *testing.T) {
	t.Parallel()
	r := Propose(left().input(t))
	dir := t.TempDir()
	kubectl := "#!/bin/sh\nfor a in \"$@\"; do printf '%s\\n' \"$a\"; done >>" + filepath.Join(dir, "args") + "\n"
	if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(kubectl), 0o700); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "sh", "-eu")
	c.Env, c.Dir, c.Stdin = []string{"PATH=" + dir}, dir, strings.NewReader(strings.Join(Remove(r.Leftovers), "\n"))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, "args"))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(string(data), "\n")
	for _, l := range r.Leftovers {
		if n := slices.Contains(args, l.Name); n == strings.Contains(l.Name, "\x1b") {
			t.Errorf("%q deleted: %v", l.Name, n)
		}
	}
	for _, a := range []string{"--", "haw-world", "rolebinding", "--ignore-not-found"} {
		if !slices.Contains(args, a) {
			t.Errorf("no %q in %q", a, args)
		}
	}
}

// TestTheBlockLoads: the configuration takes the block as it is printed, also with what people and attackers have chosen.
func TestTheBlockLoads(t *testing.T) {
	t.Parallel()
	in := scene{
		groups: map[int64]string{7: "1e3", 8: "yes1", 9: "foo_bar", 10: "foo.bar"}, projects: map[int64]string{42: "a\"b: #c/d"},
		namespaces: []corev1.Namespace{of("1e3", "1e3"), of("yes1", "yes1"), of("foo-bar", "foo_bar")},
		change:     func(in *Input) { in.Adopt = []Entry{{"odd", "project/42", "a\"b: #c/d"}} },
	}.input(t)
	d := NewDocument(Propose(in), map[string]bool{"1e3": true, "odd": true}, nil, nil, preview.Document{})
	if !strings.Contains(d.Block(), `# - {namespace: "foo-bar"`) || !strings.Contains(d.Text(), d.Block()) {
		t.Errorf("what is to be decided is not in the comments:\n%s", d.Text())
	}
	if want := []string{"kubectl label namespace odd 1e3 app.kubernetes.io/managed-by=gl-k8s-integrator"}; !slices.Equal(d.Label, want) {
		t.Errorf("%q, want %q", d.Label, want)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	base := "apiVersion: gl-k8s-integrator/v1alpha1\nkind: Config\ngitlab: {url: https://gitlab.example.org, readTokenFile: t, writeTokenFile: t}\n" +
		"listeners: {webhooks: {address: \"127.0.0.1:0\", certFile: c, keyFile: k}}\nauthn: {clientIDs: [a]}\ncluster: {kubeconfig: k}\n"
	if err := os.WriteFile(file, []byte(base+d.Block()), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, d.Block())
	}
	var got []Entry
	for _, a := range cfg.RBACSync.Adopt {
		got = append(got, Entry(a))
	}
	if want := d.Adopt; !slices.Equal(got, want) || len(got) != 3 {
		t.Errorf("loaded %+v, want %+v", got, want)
	}
	var empty Document
	if err := yaml.Unmarshal([]byte(empty.Block()), &map[string]any{}); err != nil {
		t.Error(err)
	}
}

func TestTaken(t *testing.T) {
	t.Parallel()
	in := scene{groups: map[int64]string{7: "haw"}, users: map[int64]string{3: "alice", 4: "bob"}}.input(t)
	g := in.Snapshot.Groups[7]
	g.Members = []authz.Member{{User: 3, Level: authz.Developer}}
	in.Snapshot.Groups[7] = g
	key := rbacsync.Key{Namespace: "haw", Kind: rbacsync.KindRoleBinding, Name: "gitlab-view"}
	binding := func(users ...int64) *rbacsync.Object {
		return &rbacsync.Object{Key: key, Binding: &rbacsync.Binding{Role: "view", Users: users}}
	}
	change := func(action rbacsync.Action, old, now *rbacsync.Object) rbacsync.Change {
		c := rbacsync.Change{Action: action, Key: key, Source: authz.GroupID(7), New: now}
		if old != nil {
			c.Old = &rbacsync.Live{Object: *old}
			c.Revokes = now == nil || len(now.Binding.Users) < len(old.Binding.Users)
		}
		return c
	}
	for name, x := range map[string]struct {
		before, after []rbacsync.Change
		want          int
	}{
		"given":                             {nil, []rbacsync.Change{change(rbacsync.Create, nil, binding(3))}, 0},
		"taken from bob, who is no member":  {nil, []rbacsync.Change{change(rbacsync.Update, binding(3, 4), binding(3))}, 1},
		"the same, also without entries":    {[]rbacsync.Change{change(rbacsync.Update, binding(3, 4), binding(3))}, []rbacsync.Change{change(rbacsync.Update, binding(3, 4), binding(3))}, 0},
		"taken from alice, who is a member": {[]rbacsync.Change{change(rbacsync.Update, binding(3, 4), binding(4))}, []rbacsync.Change{change(rbacsync.Update, binding(3, 4), binding(4))}, 1},
		"deleted, also without entries":     {[]rbacsync.Change{change(rbacsync.Delete, binding(4), nil)}, []rbacsync.Change{change(rbacsync.Delete, binding(4), nil)}, 1},
		"another role":                      {nil, []rbacsync.Change{change(rbacsync.Replace, binding(3), binding(3))}, 1},
	} {
		if got := Taken(x.before, x.after, in.Policy, in.Snapshot, in.Now); len(got) != x.want {
			t.Errorf("%s: %q, want %d", name, got, x.want)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	got, account, err := Settings(strings.NewReader("# Deployment gitlab-k8s-integrator, container integrator\nGITLAB_HOSTNAME=gitlab.example.org\n" +
		"export GITLAB_PRIVATE_TOKEN=\"glpat-secret\"\nHOME=/root\nGITLAB_ENVIRONMENT_NAME='ICC-K8s'\nGITLAB_SECRET_TOKEN=hush\nGITLAB_SERVICEACCOUNT_NAME=deployer\nCEPH_USER_KEY=key==\n"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, s := range got {
		lines = append(lines, s.String())
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{"GITLAB_HOSTNAME -> gitlab.url: https://gitlab.example.org  (", "GITLAB_ENVIRONMENT_NAME -> ci.environment: ICC-K8s  (", "GITLAB_PRIVATE_TOKEN -> gitlab.readTokenFile  ("} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if account != "deployer" || len(got) != 6 {
		t.Errorf("%d settings, ServiceAccount %q", len(got), account)
	}
	for _, secret := range []string{"glpat-secret", "hush", "key=="} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is shown: %s", text)
		}
	}
	for _, bad := range []string{"", "HOME=/root", strings.Repeat("x", 2<<20)} {
		if _, _, err := Settings(strings.NewReader(bad)); err == nil {
			t.Errorf("%.20q is taken", bad)
		}
	}
	keys, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variables {
		if v.key != "" && !strings.Contains(string(keys), "`"+v.key+"`") && !strings.Contains(string(keys), "`"+v.key+"[]") {
			t.Errorf("%s: docs/configuration.md has no key %s", v.name, v.key)
		}
	}
}

// TestThePage: docs/migrate.md has each reason, each old variable with what takes its place, and each field.
func TestThePage(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/migrate.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	for _, c := range codes(t) {
		if !strings.Contains(page, "\n| `"+c+"` |") {
			t.Errorf("docs/migrate.md has no row for the reason %s", c)
		}
	}
	for _, v := range variables {
		key := "–"
		if v.key != "" {
			key = "`" + v.key + "`"
		}
		if row := "| `" + v.name + "` | " + key + " | " + v.text + " |"; !strings.Contains(page, row) {
			t.Errorf("docs/migrate.md has no row %s", row)
		}
	}
	for _, of := range []reflect.Type{reflect.TypeFor[Document](), reflect.TypeFor[Summary](), reflect.TypeFor[Item](), reflect.TypeFor[Leftover](), reflect.TypeFor[Setting](), reflect.TypeFor[Entry](), reflect.TypeFor[Reason]()} {
		for f := range of.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "" && !regexp.MustCompile("`(?:[a-zA-Z]+(?:\\[\\])?\\.)*"+name+"(?:\\[\\])?`").MatchString(page) {
				t.Errorf("docs/migrate.md does not name the field %s of %s", name, of.Name())
			}
		}
	}
}

// TestTheExample: docs/migrate.md shows the text as it is.
func TestTheExample(t *testing.T) {
	t.Parallel()
	in := scene{
		groups: map[int64]string{7: "haw", 9: "foo_bar", 12: "foo.bar"}, projects: map[int64]string{42: "haw/world"}, users: map[int64]string{3: "bob"},
		namespaces: []corev1.Namespace{of("haw", "haw"), of("haw-world", "haw/world"), of("foo-bar", "foo.bar"), of("seminar", "seminar")},
		accounts:   []corev1.ServiceAccount{account("haw-world", AccountName)},
		bindings:   []rbacv1.RoleBinding{bound("haw-world", "bob-gitlab-project-developer-haw-world", "gitlab-project-developer", "User", "bob")},
		change: func(in *Input) {
			in.Foreign[rbacsync.AccountKey("haw-world")] = true
			pr := in.Snapshot.Projects[42]
			pr.Members = []authz.Member{{User: 3, Level: authz.Developer}}
			in.Snapshot.Projects[42] = pr
		},
	}.input(t)
	text := NewDocument(Propose(in), map[string]bool{"haw": true, "haw-world": true}, nil, nil, preview.Document{}).Text()
	page, err := os.ReadFile("../../docs/migrate.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```text\n"+text+"```\n") {
		t.Errorf("docs/migrate.md should show:\n%s", text)
	}
}

// TestNothingIsNull: lists of the Document are lists, also where nothing was found.
func TestNothingIsNull(t *testing.T) {
	t.Parallel()
	data, err := json.Marshal(NewDocument(Propose(scene{}.input(t)), nil, nil, nil, preview.Document{}))
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]any
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	for _, list := range []string{"adopt", "proposed", "decide", "leftovers"} {
		if _, ok := d[list].([]any); !ok {
			t.Errorf("%s is %v", list, d[list])
		}
	}
}

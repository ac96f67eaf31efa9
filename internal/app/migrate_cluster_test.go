package app

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/migrate"
)

// oldService is the integrator of 2018, as far as it touches a cluster.
type oldService struct {
	*reloading
	expected map[string]map[string]bool // its RoleBindings, by namespace
}

// page runs a block of docs/migrate.md, line by line, as an administrator. Exit status 2 of `migrate` and `plan` is no error.
func (o *oldService) page(name string) (out string) {
	o.Helper()
	page, err := os.ReadFile("../../docs/migrate.md")
	o.must(err)
	_, rest, ok := strings.Cut(string(page), "```sh "+name+"\n")
	block, _, end := strings.Cut(rest, "```")
	if !ok || !end {
		o.Fatalf("docs/migrate.md has no block %q", name)
	}
	for line := range strings.Lines(block) {
		c := exec.CommandContext(o.Context(), "sh", "-c", line)
		c.Dir, c.Env = o.dir, append(os.Environ(), "PATH="+o.dir+":"+os.Getenv("PATH"), "KUBECONFIG="+o.cluster.AdminKubeconfig())
		text, err := c.CombinedOutput()
		if status, ok := errors.AsType[*exec.ExitError](err); ok && status.ExitCode() == 2 && strings.HasPrefix(line, "gl-k8s-integrator ") {
			err = nil
		}
		if err != nil {
			o.Errorf("%s: %s: %v\n%s", name, line, err, text)
		}
		out += string(text)
	}
	return out
}

// prepare makes what the page names: the program, kubectl, the configuration, and the Deployment of the old service.
func (o *oldService) prepare() {
	o.Helper()
	build := exec.CommandContext(o.Context(), "go", "build", "-o", filepath.Join(o.dir, "gl-k8s-integrator"), "../../cmd/gl-k8s-integrator")
	text, err := build.CombinedOutput()
	if err != nil {
		o.Fatalf("building the program: %v\n%s", err, text)
	}
	o.must(os.Symlink(o.cluster.Kubectl(), filepath.Join(o.dir, "kubectl")))
	o.must(os.Symlink(o.cluster.AdminKubeconfig(), filepath.Join(o.dir, "admin.kubeconfig")))
	o.must(os.Symlink(o.path(), filepath.Join(o.dir, "config.yaml")))
	o.must(os.WriteFile(filepath.Join(o.dir, "old.env"), []byte("GITLAB_HOSTNAME=gitlab.example.org\nGITLAB_PRIVATE_TOKEN=glpat-hush\nGITLAB_ENVIRONMENT_NAME=ICC-K8s\n"), 0o600))
	_, err = o.admin.CoreV1().Namespaces().Create(o.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gitlab-integrator"}}, metav1.CreateOptions{})
	o.must(err)
	labels := map[string]string{"app": "old"}
	_, err = o.admin.AppsV1().Deployments("gitlab-integrator").Create(o.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "gitlab-k8s-integrator"},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "old", Image: "old"}}},
		}},
	}, metav1.CreateOptions{})
	o.must(err)
}

// replicas returns how many of the old service should run.
func (o *oldService) replicas() int32 {
	o.Helper()
	d, err := o.admin.AppsV1().Deployments("gitlab-integrator").Get(o.Context(), "gitlab-k8s-integrator", metav1.GetOptions{})
	o.must(err)
	return *d.Spec.Replicas
}

// namespace makes one by its rules, with the ServiceAccount of CI jobs and the bindings of members: user names to ClusterRoles.
func (o *oldService) namespace(name, path string, members map[string]string, labels ...string) {
	o.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{migrate.LabelOrigin: migrate.Encode(path)}}}
	for _, l := range labels {
		ns.Labels[l] = "true"
	}
	_, err := o.admin.CoreV1().Namespaces().Create(o.Context(), ns, metav1.CreateOptions{})
	o.must(err)
	_, err = o.admin.CoreV1().ServiceAccounts(name).Create(o.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: migrate.AccountName}}, metav1.CreateOptions{})
	o.must(err)
	o.expected[name] = map[string]bool{}
	o.bind(name, migrate.AccountName, "gitlab-project-master", rbacv1.Subject{Kind: "ServiceAccount", Namespace: name, Name: migrate.AccountName})
	for user, role := range members {
		o.bind(name, user+"-"+role+"-"+name, role, rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: user})
	}
}

func (o *oldService) bind(ns, name, role string, subject rbacv1.Subject) {
	o.Helper()
	rb := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{subject}}
	_, err := o.admin.RbacV1().RoleBindings(ns).Create(o.Context(), rb, metav1.CreateOptions{})
	o.must(err)
	o.expected[ns][name] = true
}

// sync says which RoleBindings its next round would delete: all in its namespaces that it does not expect.
func (o *oldService) sync() (deletes []string) {
	o.Helper()
	for ns, expected := range o.expected {
		list, err := o.admin.RbacV1().RoleBindings(ns).List(o.Context(), metav1.ListOptions{})
		o.must(err)
		for _, rb := range list.Items {
			if !expected[rb.Name] {
				deletes = append(deletes, ns+"/"+rb.Name)
			}
		}
	}
	slices.Sort(deletes)
	return deletes
}

// versions returns the resourceVersions of all that is in the cluster's namespaces and was made by people or the old service.
func (o *oldService) versions() map[string]string {
	o.Helper()
	out := map[string]string{}
	bindings, err := o.admin.RbacV1().RoleBindings("").List(o.Context(), metav1.ListOptions{LabelSelector: kubename.LabelManagedBy + "!=" + kubename.ManagedBy})
	o.must(err)
	for _, b := range bindings.Items {
		if b.Namespace == deploy.Namespace || strings.HasPrefix(b.Namespace, "kube-") {
			continue
		}
		out["RoleBinding "+b.Namespace+"/"+b.Name] = b.ResourceVersion
	}
	accounts, err := o.admin.CoreV1().ServiceAccounts("").List(o.Context(), metav1.ListOptions{LabelSelector: kubename.LabelManagedBy + "!=" + kubename.ManagedBy})
	o.must(err)
	for _, a := range accounts.Items {
		if a.Name != "default" && a.Namespace != deploy.Namespace && !strings.HasPrefix(a.Namespace, "kube-") {
			out["ServiceAccount "+a.Namespace+"/"+a.Name] = a.ResourceVersion
		}
	}
	return out
}

// untouched demands that all of them are as they were.
func (o *oldService) untouched(before map[string]string) {
	o.Helper()
	now := o.versions()
	for k, v := range before {
		if now[k] != v {
			o.Errorf("%s was changed or deleted", k)
		}
	}
}

// migration runs `migrate`.
func (o *oldService) migration(v MigrateView) (text string, d migrate.Document, todo int, err error) {
	o.Helper()
	cfg, err := config.Load(o.path())
	o.must(err)
	var out, asJSON strings.Builder
	todo, err = Migrate(o.Context(), cfg, slog.New(slog.DiscardHandler), &out, io.Discard, v)
	if err != nil {
		return out.String(), d, todo, err
	}
	v.Output = "json"
	_, err = Migrate(o.Context(), cfg, slog.New(slog.DiscardHandler), &asJSON, io.Discard, v)
	o.must(err)
	o.must(json.Unmarshal([]byte(asJSON.String()), &d))
	return out.String(), d, todo, nil
}

// block returns the part of the text that is for the configuration.
func (o *oldService) block(text string) string {
	o.Helper()
	_, rest, ok := strings.Cut(text, "rbacsync:\n")
	block, _, end := strings.Cut(rest, "\n\n")
	if !ok || !end {
		o.Fatalf("no block for the configuration in\n%s", text)
	}
	return "rbacsync:\n" + block + "\n"
}

// plan makes a plan of ours.
func (o *oldService) plan() (deleted, lost, writes int, findings []string) {
	o.Helper()
	cfg, err := config.Load(o.path())
	o.must(err)
	var out strings.Builder
	_, err = Plan(o.Context(), cfg, slog.New(slog.DiscardHandler), &out, io.Discard, PlanView{Output: "json"})
	o.must(err)
	var d struct {
		Summary  struct{ Deleted, Lost, Exchanged, Writes int }
		Findings []struct{ Code, Text string }
	}
	o.must(json.Unmarshal([]byte(out.String()), &d))
	for _, f := range d.Findings {
		findings = append(findings, f.Code)
	}
	return d.Summary.Deleted, d.Summary.Lost + d.Summary.Exchanged, d.Summary.Writes, findings
}

// enforce does one round of ours.
func (o *oldService) enforce() {
	o.Helper()
	cfg, err := config.Load(o.path())
	o.must(err)
	o.must(Sync(o.Context(), cfg, slog.New(slog.DiscardHandler), io.Discard, io.Discard))
}

// TestMigration: a cluster of the integrator of 2018 and of the certificate integration is looked at beside the old service, taken
// over without a deletion, cleaned up by what `migrate` lists, and given back.
func TestMigration(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	o := &oldService{reloading: newReloading(t), expected: map[string]map[string]bool{}}
	w := o.gitlab.World()
	group := func(path string, parent int64) int64 {
		id, err := w.AddGroup(gitlabsim.Group{Path: path, Name: path, Visibility: "private", ParentID: parent})
		o.must(err)
		return id
	}
	project := func(path string, in int64) int64 {
		id, err := w.AddProject(gitlabsim.Project{Path: path, Name: path, Visibility: "private", NamespaceID: in})
		o.must(err)
		return id
	}
	group("foo_bar", 0)
	foo := group("foo", 0)
	bar := project("bar", foo)
	victim := group("victim", 0)
	twice := group("a_", 0)
	project("b", twice)
	var haw int64
	w.View(func(v *gitlabsim.View) { haw = v.GroupByPath("haw").ID })
	cert, renamed := project("cert", haw), project("renamed", haw)
	o.must(w.SetMember(gitlabsim.KindGroup, victim, o.user("carol"), 50, ""))

	o.namespace("haw", "haw", nil)
	o.namespace("haw-world", "haw/world", map[string]string{"alice": "gitlab-project-master", "bob": "gitlab-project-developer", "carol": "gitlab-project-reporter"})
	o.namespace("foo-bar", "foo_bar", nil)
	o.namespace("foo-bar-1", "foo/bar", nil)
	o.namespace("victim", "victim", nil)
	o.namespace("evil", "victim", map[string]string{"mallory": "gitlab-group-master"})
	o.namespace("a--b", "a_/b", nil)
	o.namespace("old-gone", "old-gone", nil)
	o.namespace("foo", "foo", nil, migrate.LabelIgnored)
	certNS, renamedNS := "cert-"+strconv.FormatInt(cert, 10)+"-production", "before-"+strconv.FormatInt(renamed, 10)+"-production"
	for ns, app := range map[string]string{certNS: "haw-cert", renamedNS: "haw-before"} {
		_, err := o.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{migrate.LabelApp: app, migrate.LabelEnv: "production"}}}, metav1.CreateOptions{})
		o.must(err)
		_, err = o.admin.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: ns + "-service-account"}}, metav1.CreateOptions{})
		o.must(err)
		o.expected[ns] = map[string]bool{}
		o.bind(ns, "gitlab-"+ns, "admin", rbacv1.Subject{Kind: "ServiceAccount", Namespace: ns, Name: ns + "-service-account"})
		delete(o.expected, ns) // not the old service's
	}
	source := func(kind string, id int64) string { return kind + "/" + strconv.FormatInt(id, 10) }

	// Beside the old service: nothing is written, and what is proposed is what nothing speaks against.
	o.write("")
	o.prepare()
	old := o.oldRole()
	before := o.versions()
	look := o.page("look")
	for _, want := range []string{"GITLAB_ENVIRONMENT_NAME -> ci.environment: ICC-K8s", `- {namespace: "haw-world", source: "project/`, `"kind": "Migration"`, "kubectl label namespace "} {
		if !strings.Contains(look, want) {
			t.Errorf("looking: no %q in\n%s", want, look)
		}
	}
	if strings.Contains(look, "glpat-hush") {
		t.Error("a secret of the old service is shown")
	}
	text, d, todo, err := o.migration(MigrateView{})
	o.must(err)
	want := map[string]string{"haw": source("group", haw), "haw-world": source("project", o.project), "foo-bar-1": source("project", bar), certNS: source("project", cert)}
	w.View(func(v *gitlabsim.View) { want["foo-bar"] = source("group", v.GroupByPath("foo_bar").ID) })
	got := map[string]string{}
	for _, e := range d.Adopt {
		got[e.Namespace] = e.Source
	}
	if !maps.Equal(got, want) || todo == 0 {
		t.Errorf("proposed %v, want %v", got, want)
	}
	decide := map[string]string{}
	for _, it := range d.Decide {
		var codes []string
		for _, r := range it.Reasons {
			codes = append(codes, string(r.Code))
		}
		decide[it.Namespace] = strings.Join(codes, " ")
	}
	if want := map[string]string{
		"victim": "several_namespaces", "evil": "name_differs several_namespaces", "a--b": "ambiguous_label", "old-gone": "source_gone",
		"foo": "ignored reserved_name", renamedNS: "renamed",
	}; !maps.Equal(decide, want) {
		t.Errorf("to decide: %v, want %v", decide, want)
	}
	if s := d.Plan.Summary; s.Deleted+s.Lost+s.Exchanged != 0 || s.Gained == 0 || len(d.Taken) > 0 {
		t.Errorf("the plan takes something: %+v %v", s, d.Taken)
	}
	o.untouched(before)

	// With the entries in the configuration, and no mark: nothing is taken over, and serve in mode plan disturbs nobody.
	block := o.block(text)
	o.write(block)
	stop := o.start()
	deleted, lost, _, findings := o.plan()
	if deleted != 0 || lost != 0 || !slices.Contains(findings, "adopt_unmarked") {
		t.Errorf("in shadow: %d deleted, %d lost, findings %v", deleted, lost, findings)
	}
	if text := o.page("shadow"); !strings.Contains(text, "config.yaml: ok") || !strings.Contains(text, "finding adopt_unmarked: ") {
		t.Errorf("in shadow: %s", text)
	}
	if text := o.page("pods"); !strings.Contains(text, "haw-world") {
		t.Errorf("pods: %s", text)
	}
	stop()
	o.untouched(before)
	if n := o.sync(); len(n) > 0 {
		t.Errorf("the old service would delete %v while ours only plans", n)
	}
	if _, d, _, err := o.migration(MigrateView{}); err != nil || len(d.Label) != 1 || d.Summary.Configured != len(want) || d.Summary.Proposed != 0 {
		t.Errorf("with the entries: %+v %v, %v", d.Summary, d.Label, err)
	}

	// The old service is stopped, the namespaces are marked, and ours enforces.
	if text := o.page("enforce"); o.replicas() != 0 || !strings.Contains(text, "~ haw-world") || strings.Contains(text, "~ foo-bar") {
		t.Errorf("taking over: %s", text)
	}
	for ns := range want {
		_, err := o.admin.CoreV1().Namespaces().Patch(t.Context(), ns, "application/merge-patch+json", []byte(`{"metadata":{"labels":{"`+kubename.LabelManagedBy+`":"`+kubename.ManagedBy+`"}}}`), metav1.PatchOptions{})
		o.must(err)
	}
	o.enforce()
	o.untouched(before)
	for ns, src := range want {
		n, err := o.admin.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
		o.must(err)
		if n.Labels[kubename.LabelSource] != strings.Replace(src, "/", "-", 1) || n.Labels[kubename.LabelManagedBy] != kubename.ManagedBy {
			t.Errorf("%s has the labels %v", ns, n.Labels)
		}
	}
	edit, err := o.admin.RbacV1().RoleBindings("haw-world").Get(t.Context(), "gitlab-edit", metav1.GetOptions{})
	o.must(err)
	if len(edit.Subjects) != 1 || edit.Subjects[0].Name != kubename.User(o.user("alice")) {
		t.Errorf("haw-world: %v", edit.Subjects)
	}
	if n := o.sync(); len(n) == 0 {
		t.Error("the old service would leave our bindings alone: docs/migrate.md says that it has to be stopped first")
	}

	// What is left is listed, with what GitLab gives instead, and gone once it was removed; then jobs get what is ours.
	_, d, _, err = o.migration(MigrateView{From: []string{"2018"}})
	o.must(err)
	var lines []string
	for _, l := range d.Leftovers {
		if l.Namespace == "haw-world" {
			lines = append(lines, l.String())
		}
	}
	if want := []string{
		"haw-world  RoleBinding alice-gitlab-project-master-haw-world  gives alice gitlab-project-master; GitLab gives edit",
		"haw-world  RoleBinding bob-gitlab-project-developer-haw-world  gives bob gitlab-project-developer; GitLab gives view",
		"haw-world  RoleBinding carol-gitlab-project-reporter-haw-world  gives carol gitlab-project-reporter; GitLab gives nothing",
		"haw-world  RoleBinding gitlab-serviceaccount  gives gitlab-serviceaccount gitlab-project-master  (has a name of ours)",
		"haw-world  ServiceAccount gitlab-serviceaccount  (has a name of ours)",
	}; !slices.Equal(lines, want) || d.Summary.Ours != 4 || d.Summary.Proposed != 0 {
		t.Errorf("left: %q, want %q; %+v", lines, want, d.Summary)
	}
	o.page("remove")
	o.enforce()
	sa, err := o.admin.CoreV1().ServiceAccounts("haw-world").Get(t.Context(), kubename.CIServiceAccount, metav1.GetOptions{})
	o.must(err)
	if sa.Labels[kubename.LabelManagedBy] != kubename.ManagedBy {
		t.Error("the ServiceAccount of CI jobs is not ours")
	}

	// A plan that deletes something is refused, and says so.
	_, err = o.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name:   "dead",
		Labels: map[string]string{kubename.LabelManagedBy: kubename.ManagedBy, kubename.LabelSource: "group-99999"},
		Annotations: map[string]string{
			kubename.AnnotationSource: "group-99999", kubename.AnnotationIssuer: o.gitlab.URL(), kubename.AnnotationPath: "dead", kubename.AnnotationGoneSince: "2020-01-01T00:00:00Z",
		},
	}}, metav1.CreateOptions{})
	o.must(err)
	o.write(block + "  deletion: {policy: delete, grace: 1h}\n")
	if text, _, _, err := o.migration(MigrateView{}); err == nil || !strings.Contains(err.Error(), "deletes or takes 1 things") || !strings.Contains(text, "delete Namespace dead") {
		t.Errorf("a plan that deletes a namespace: %v\n%s", err, text)
	}
	o.must(o.admin.CoreV1().Namespaces().Delete(t.Context(), "dead", metav1.DeleteOptions{}))
	o.write(block)

	// Back: ours goes, and what the old service had is there as before.
	o.back(before)
	if role := o.role(); !equality.Semantic.DeepEqual(role.Rules, old) {
		t.Errorf("the old ClusterRole has the rules %v, before %v", role.Rules, old)
	}
}

func (o *oldService) role() *rbacv1.ClusterRole {
	o.Helper()
	role, err := o.admin.RbacV1().ClusterRoles().Get(o.Context(), kubename.CIClusterRole, metav1.GetOptions{})
	o.must(err)
	return role
}

// oldRole is as if the ClusterRole of the old service, which has the name of ours, had been saved before ours was applied.
func (o *oldService) oldRole() []rbacv1.PolicyRule {
	o.Helper()
	roles := o.admin.RbacV1().ClusterRoles()
	ours, old := o.role(), o.role()
	old.Rules = []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}
	old, err := roles.Update(o.Context(), old, metav1.UpdateOptions{})
	o.must(err)
	o.page("save")
	rules := old.Rules
	old.Rules = ours.Rules
	_, err = roles.Update(o.Context(), old, metav1.UpdateOptions{})
	o.must(err)
	return rules
}

// back uninstalls ours.
func (o *oldService) back(before map[string]string) {
	o.Helper()
	o.page("back")
	if o.replicas() != 1 {
		o.Error("the old service is not started again")
	}
	delete(before, "RoleBinding haw-world/alice-gitlab-project-master-haw-world") // removed above
	delete(before, "RoleBinding haw-world/"+migrate.AccountName)
	delete(before, "ServiceAccount haw-world/"+migrate.AccountName)
	o.untouched(before)
	ns, err := o.admin.CoreV1().Namespaces().Get(o.Context(), "haw-world", metav1.GetOptions{})
	o.must(err)
	if ns.Labels[migrate.LabelOrigin] != "haw_world" || ns.Labels[kubename.LabelManagedBy] != "" {
		o.Errorf("haw-world has the labels %v", ns.Labels)
	}
	if n := o.sync(); len(n) > 0 {
		o.Errorf("of ours is left: %v", n)
	}
	if _, err := o.admin.RbacV1().RoleBindings("haw-world").Get(o.Context(), "gitlab-edit", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		o.Errorf("our binding: %v", err)
	}
}

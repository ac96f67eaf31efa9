package replicas_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// upgrade is the world of TestUpgradeAndRollback: replicas of two versions.
type upgrade struct {
	*ruin
	old    string            // the program of the previous version
	tree   string            // deploy/ of the previous version is in this folder
	hooks  *balancer         // where GitLab sends its hooks
	tokens map[string]string // ID tokens, by who has them

	blocked bool   // bob is
	as      string // who leads

	mu sync.Mutex
	// allowed is who may be in which binding of haw-world now, by what GitLab gives: "gitlab-view carol".
	allowed map[string]bool
}

// startOf starts a replica of the previous version or of this one.
func (u *upgrade) startOf(old bool, name string) *replica {
	u.program = ""
	if old {
		u.program = u.old
	}
	return u.start(name, time.Hour)
}

// may says that GitLab gives something, or no longer.
func (u *upgrade) may(what string, gives bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if delete(u.allowed, what); gives {
		u.allowed[what] = true
	}
}

// guard looks until stop is closed whether somebody has a right that GitLab does not give, or alice lost theirs, which GitLab
// gives all the time.
func (u *upgrade) guard(stop <-chan struct{}) {
	names := map[string]string{}
	for _, n := range []string{"alice", "bob", "carol", "root"} {
		names[fmt.Sprintf("gitlab:%d", u.user(n))] = n
	}
	for {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		u.mu.Lock() // what is allowed does not change meanwhile
		list, err := u.admin.RbacV1().RoleBindings("haw-world").List(u.t.Context(), metav1.ListOptions{})
		var given []string
		for _, b := range list.Items {
			for _, s := range b.Subjects {
				if s.Kind == rbacv1.UserKind {
					given = append(given, b.Name+" "+names[s.Name])
				}
			}
		}
		for _, g := range given {
			if err == nil && !u.allowed[g] {
				u.t.Errorf("%s: GitLab does not give that", g)
			}
		}
		u.mu.Unlock()
		if err == nil && !slices.Contains(given, "gitlab-edit alice") {
			u.t.Error("alice lost their right")
		}
		if u.t.Failed() {
			return
		}
	}
}

// versions returns UID and version of all objects that we write, but for the Lease and the status, which say how things go on.
func (u *upgrade) versions() map[string]string {
	u.t.Helper()
	out := map[string]string{}
	list := func(group, kind, selector, namespace string, skip ...string) {
		l, err := u.objects.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: kind}).Namespace(namespace).
			List(u.t.Context(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			u.t.Fatal(err)
		}
		for _, o := range l.Items {
			if !slices.Contains(skip, o.GetName()) {
				out[kind+" "+o.GetNamespace()+"/"+o.GetName()] = string(o.GetUID()) + " " + o.GetResourceVersion()
			}
		}
	}
	ours := kubename.LabelManagedBy + "=" + kubename.ManagedBy
	list("", "namespaces", ours, "")
	list("", "serviceaccounts", ours, "")
	list("", "secrets", ours, "")
	list("rbac.authorization.k8s.io", "rolebindings", ours, "")
	list("", "configmaps", "", deploy.Namespace, store.NameStatus)
	list("", "secrets", "", deploy.Namespace)
	return out
}

// settled waits until nothing was written for some seconds, while replicas of both versions run, and returns what there is.
func (u *upgrade) settled() map[string]string {
	u.t.Helper()
	const quiet = 2 * time.Second
	have, since := u.versions(), time.Now()
	u.eventually("nothing is written any more", 60*time.Second, func() bool {
		time.Sleep(100 * time.Millisecond)
		if now := u.versions(); !maps.Equal(now, have) {
			have, since = now, time.Now()
		}
		return time.Since(since) > quiet
	})
	return have
}

// leader waits until a replica leads and its first round has ended.
func (u *upgrade) leader(r *replica) {
	u.t.Helper()
	r.leads(30 * time.Second)
	who := regexp.MustCompile(`"msg":"leading","identity":"([^"]+)"`).FindStringSubmatch(r.log.String())
	if who == nil {
		u.t.Fatalf("%s leads, and its log does not tell as whom", r.name)
	}
	u.eventually("the status of "+r.name, 60*time.Second, func() bool {
		cm, err := u.admin.CoreV1().ConfigMaps(deploy.Namespace).Get(u.t.Context(), store.NameStatus, metav1.GetOptions{})
		return err == nil && strings.Contains(cm.Data["status.json"], `"leader":"`+who[1]+`"`) && !strings.Contains(cm.Data["status.json"], `"started":"0001`)
	})
	u.r, u.as = r, who[1]
}

// over ends the leader as a rollout does; another one leads, and has written nothing but what changed meanwhile.
func (u *upgrade) over(old, fresh *replica) {
	u.t.Helper()
	before := u.settled()
	token := u.token()
	old.signal(syscall.SIGTERM)
	if err := old.cmd.Wait(); err != nil {
		u.t.Errorf("%s: %v", old.name, err)
	}
	u.leader(fresh)
	after := u.settled()
	for _, name := range []string{store.NameSnapshot, store.NameKeys, store.NameHistory} {
		what := "secrets " + deploy.Namespace + "/" + name
		if strings.Fields(before[what])[0] != strings.Fields(after[what])[0] {
			u.t.Errorf("%s was made anew", what)
		}
		delete(before, what) // they have the time of the last reading in them, and who ends writes down what it has changed
		delete(after, what)
	}
	history := func(what, _ string) bool {
		return strings.HasPrefix(what, "secrets "+deploy.Namespace+"/"+store.NameAudit)
	}
	maps.DeleteFunc(before, history) // it takes over what a version before has written
	maps.DeleteFunc(after, history)
	if !maps.Equal(before, after) {
		for what, v := range after {
			if before[what] != v {
				u.t.Errorf("%s leads, and wrote %s though GitLab has not changed: %q is now %q", fresh.name, what, before[what], v)
			}
		}
		for what := range before {
			if after[what] == "" {
				u.t.Errorf("%s leads, and deleted %s", fresh.name, what)
			}
		}
	}
	if token == "" || u.token() != token {
		u.t.Errorf("%s leads, and GitLab has another token", fresh.name)
	}
}

// loggedIn waits until a replica lets a person in, or not.
func (u *upgrade) loggedIn(r *replica, name string, want bool) {
	u.t.Helper()
	u.eventually(fmt.Sprintf("login of %s at %s: %v", name, r.name, want), 30*time.Second, func() bool {
		return (login(&u.client, "https://"+r.webhooks+"/authenticate", u.tokens[name]) == nil) == want
	})
}

// works checks a pair of replicas of which one leads: hooks that the other one gets give and take, both let in who is not
// blocked, which bob is each second time, and both give the same reasons.
func (u *upgrade) works(leader, other *replica) {
	u.t.Helper()
	u.hookTo(other)
	u.may("gitlab-view carol", true)
	u.set("carol", gitlabsim.Developer)
	u.eventually("carol has their right", 30*time.Second, func() bool { return u.has("gitlab-view", "carol") })
	u.remove("carol")
	u.eventually("carol's right is gone", 30*time.Second, func() bool { return !u.has("gitlab-view", "carol") })
	u.may("gitlab-view carol", false)
	u.eventually("the inbox is empty", 30*time.Second, func() bool { return len(u.inbox()) == 0 })
	state, gives := gitlabsim.StateBlocked, u.blocked
	if u.blocked = !gives; gives {
		state = gitlabsim.StateActive
		u.may("gitlab-view bob", true)
	}
	if err := u.gitlab.World().SetUserState(u.user("bob"), state); err != nil {
		u.t.Fatal(err)
	}
	u.eventually("bob's right follows", 30*time.Second, func() bool { return u.has("gitlab-view", "bob") == gives })
	u.may("gitlab-view bob", gives)
	for _, r := range []*replica{leader, other} {
		u.loggedIn(r, "bob", gives)
		u.loggedIn(r, "alice", true)
	}
	u.eventually("both explain alike", 30*time.Second, func() bool {
		return strings.Contains(leader.why("alice"), "you are Maintainer in haw/world") && leader.why("alice") == other.why("alice")
	})
}

// hookTo makes GitLab's hooks arrive at this replica alone.
func (u *upgrade) hookTo(r *replica) {
	u.t.Helper()
	u.listens(r)
	u.hooks.mu.Lock()
	defer u.hooks.mu.Unlock()
	u.hooks.to = []string{r.hooks}
}

// run runs a command of the previous version.
func (u *upgrade) run(args ...string) string {
	u.t.Helper()
	out, err := u.output(args...)
	if err != nil {
		u.t.Errorf("the previous version: %v", err)
	}
	return out
}

// output runs a command of the previous version.
func (u *upgrade) output(args ...string) (string, error) {
	args = append(args, "--config", filepath.Join(u.dir, u.r.name+".yaml"))
	return output(exec.CommandContext(u.t.Context(), u.old, args...), u.dir)
}

// shown checks that the commands of both versions read what is stored, and that a saved snapshot of each is read by the other.
func (u *upgrade) shown() {
	t := u.t
	t.Helper()
	cfg, err := config.Load(filepath.Join(u.dir, u.r.name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	var status, history bytes.Buffer
	file := filepath.Join(u.dir, u.r.name+".snapshot")
	if err := app.Status(t.Context(), cfg, &status); err != nil {
		t.Error(err)
	}
	u.run("history", "--namespace", "haw-world")                                         // what it knows of; that is not what this version writes
	u.eventually("the history has what both have written", 30*time.Second, func() bool { // it is written some seconds later
		history.Reset()
		return app.History(t.Context(), cfg, app.HistoryView{Namespace: "haw-world"}, &history) == nil && strings.Contains(history.String(), "  view  [")
	})
	if old := u.run("status"); !strings.Contains(old, u.as) || !strings.Contains(status.String(), u.as) {
		t.Errorf("status: %s leads, the previous version says\n%s\nand this one\n%s", u.as, old, status.String())
	}
	u.eventually("the previous version plans nothing, from what this one saved", 60*time.Second, func() bool { // what was approved is being written
		if err := app.SaveSnapshot(t.Context(), cfg, log, file, io.Discard, io.Discard); err != nil {
			t.Fatal(err)
		}
		old, err := u.output("plan", "--offline", file)
		return err == nil && strings.Contains(old, "nothing to change")
	})
	u.run("snapshot", "save", file+".old")
	var plan bytes.Buffer
	n, err := app.Plan(t.Context(), cfg, log, &plan, io.Discard, app.PlanView{Offline: file + ".old"})
	if err != nil || n != 0 {
		t.Errorf("plan from what the previous version saved: %d changes, %v\n%s", n, err, plan.String())
	}
}

// held adds projects, of which the limit holds some, and returns what is held.
func (u *upgrade) held(names ...string) []rbacsync.Item {
	u.t.Helper()
	var group int64
	u.gitlab.World().View(func(v *gitlabsim.View) { group = v.ProjectByPath("haw/world").NamespaceID })
	for _, name := range names {
		_, err := u.gitlab.World().AddProject(gitlabsim.Project{
			NamespaceID: group, Path: name, Name: name, Members: []gitlabsim.Member{{UserID: u.user("alice"), Level: gitlabsim.Maintainer}},
		})
		if err != nil {
			u.t.Fatal(err)
		}
	}
	u.look()
	var items []rbacsync.Item
	u.eventually("they are held", 60*time.Second, func() (done bool) {
		var err error
		items, err = store.Held{Client: u.admin, Namespace: deploy.Namespace}.Load(u.t.Context())
		return err == nil && len(items) == len(names)
	})
	return items
}

func newUpgrade(t *testing.T) *upgrade {
	u := &upgrade{ruin: &ruin{world: newWorld(t)}, tokens: map[string]string{}, allowed: map[string]bool{"gitlab-edit alice": true, "gitlab-view bob": true}}
	u.rbacsync, u.delivery = ", limits: {creationsPerHour: 2}", "variables"
	var err error
	if u.objects, err = dynamic.NewForConfig(u.cluster.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob"} {
		if u.tokens[name], err = u.gitlab.MintUserIDToken(u.user(name), "kubelogin", gitlabsim.TokenOptions{Lifetime: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.hooks = &balancer{Listener: l}
	var serving sync.WaitGroup
	serving.Go(u.hooks.serve)
	t.Cleanup(func() { _ = l.Close(); u.gitlab.Close(); serving.Wait() })
	if _, err := u.gitlab.AddSystemHook(gitlabsim.SeedHook{URL: "http://" + l.Addr().String() + "/hooks/gitlab", Token: "s3cret-of-the-hook"}); err != nil {
		t.Fatal(err)
	}
	return u
}

// page runs a block of docs/upgrade.md, in the tree of the previous version or of this one.
func (u *upgrade) page(block, tree string) string {
	u.t.Helper()
	text, err := os.ReadFile("../../docs/upgrade.md")
	if err != nil {
		u.t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```sh " + block + "\n(.*?)```").FindSubmatch(text)
	if m == nil {
		u.t.Fatalf("docs/upgrade.md has no block %s", block)
	}
	cmd := exec.CommandContext(u.t.Context(), "sh", "-e", "-c", string(m[1]))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(u.cluster.Kubectl())+":"+os.Getenv("PATH"), "KUBECONFIG="+u.cluster.AdminKubeconfig())
	out, err := output(cmd, tree)
	if err != nil {
		u.t.Error(err)
	}
	return out
}

// thisTree is the top of this version's source.
const thisTree = "../.."

// TestUpgradeAndRollback: replicas of the previous version and of this one on one cluster and one GitLab. Each of them takes over
// from the other one, twice, after the manifests of its version were applied, as docs/upgrade.md says. Nothing is lost, nobody
// gets what GitLab does not give, and neither version rewrites what the other one wrote.
func TestUpgradeAndRollback(t *testing.T) {
	program := previousBinary(t)
	u := newUpgrade(t)
	u.old, u.tree = program, previousTree(t, "deploy")
	u.page("manifests", u.tree)
	a := u.startOf(true, "a")
	u.leader(a)
	u.eventually("the first round", 30*time.Second, func() bool { return u.rights() && u.token() != "" })
	stop := make(chan struct{})
	var guard sync.WaitGroup
	guard.Go(func() { u.guard(stop) })
	defer guard.Wait()
	defer close(stop)

	u.page("manifests", thisTree)
	b := u.startOf(false, "b")
	u.works(a, b)
	items := u.held("second", "third", "fourth")
	u.shown()
	u.over(a, b) // the upgrade

	c := u.startOf(true, "c")
	u.works(b, c)
	now, err := store.Held{Client: u.admin, Namespace: deploy.Namespace}.Load(t.Context())
	if same, _ := json.Marshal(now); err != nil || !bytes.Equal(same, must(json.Marshal(items))) {
		t.Errorf("%s is held, and before it was %v: %v", same, items, err)
	}
	u.run("approve", rbacsync.HashOf(items)) // of the previous version, for a leader of this one
	u.look()
	u.eventually("what was approved is made", 60*time.Second, func() bool { return u.hasIn("haw-fourth", "gitlab-edit", "alice") })
	u.shown()
	items = u.held("fifth", "sixth", "seventh")
	u.page("manifests", u.tree)
	u.over(b, c) // the rollback

	cfg, err := config.Load(filepath.Join(u.dir, "c.yaml"))
	if err == nil {
		err = app.Approve(t.Context(), cfg, rbacsync.HashOf(items), io.Discard) // of this version, for a leader of the previous one
	}
	if err != nil {
		t.Fatal(err)
	}
	u.look()
	u.eventually("what was approved is made", 60*time.Second, func() bool { return u.hasIn("haw-seventh", "gitlab-edit", "alice") })
	u.page("manifests", thisTree)
	d := u.startOf(false, "d")
	u.works(c, d)
	u.shown()
	u.over(c, d) // and up again
	u.later(d)
}

// later checks what a replica does beside one of a version that is further than the next: what that has written in later
// formats is left as it is, and told.
func (u *upgrade) later(leader *replica) {
	t := u.t
	t.Helper()
	written := map[string]any{"metadata": map[string]any{"annotations": map[string]any{kubename.AnnotationFormat: "2"}}}
	none := map[string]any{"metadata": map[string]any{"annotations": map[string]any{kubename.AnnotationFormat: nil}}}
	format := func(kind, namespace, name string, patch map[string]any) {
		t.Helper()
		_, err := u.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: kind}).Namespace(namespace).
			Patch(t.Context(), name, types.MergePatchType, must(json.Marshal(patch)), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	inside := func() map[string]string {
		all := u.versions()
		maps.DeleteFunc(all, func(what, _ string) bool { return !strings.Contains(what, "haw-world") })
		return all
	}
	token := u.token()
	format("namespaces", "", "haw-world", written)
	before := inside()
	u.set("carol", gitlabsim.Developer)
	u.look()
	u.eventually("finding mark_newer", 30*time.Second, func() bool { return u.finds("mark_newer") })
	u.settled()
	if now := inside(); !maps.Equal(now, before) || u.token() != token {
		t.Errorf("a namespace with marks of a later version was changed: it had\n%v\nand has\n%v", before, now)
	}
	leader.signal(syscall.SIGTERM)
	if err := leader.cmd.Wait(); err != nil {
		t.Error(err)
	}
	u.may("gitlab-view carol", true)
	format("namespaces", "", "haw-world", none)
	format("secrets", deploy.Namespace, store.NameSnapshot, written)
	others := func(all map[string]string) map[string]string { // each replica keeps the keys, in a format that it knows
		delete(all, "secrets "+deploy.Namespace+"/"+store.NameKeys)
		return all
	}
	before = others(u.versions())
	e := u.startOf(false, "e")
	u.eventually("it says why it does not lead", 30*time.Second, func() bool {
		return strings.Contains(e.log.String(), "gl-k8s-integrator-snapshot has format") && !strings.Contains(e.log.String(), `"msg":"leading"`)
	})
	u.loggedIn(e, "alice", true)
	if now := others(u.settled()); !maps.Equal(now, before) {
		t.Errorf("beside a Snapshot of a later version something was written: it was\n%v\nand is\n%v", before, now)
	}
	if out := u.page("formats", thisTree); !regexp.MustCompile(`(?m)^Secret +gl-k8s-integrator-snapshot +2$`).MatchString(out) ||
		!regexp.MustCompile(`(?m)^ConfigMap +gl-k8s-integrator-inbox +<none>$`).MatchString(out) || !regexp.MustCompile(`(?m)^haw-world +<none>$`).MatchString(out) {
		t.Errorf("docs/upgrade.md lets people see the formats, and they see\n%s", out)
	}
	format("secrets", deploy.Namespace, store.NameSnapshot, none)
	u.leader(e)
	u.eventually("carol has their right", 30*time.Second, func() bool { return u.has("gitlab-view", "carol") })
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

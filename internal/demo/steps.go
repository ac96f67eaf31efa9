package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim/runner"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Step is one chapter of the story. Steps build on each other and run in order.
type Step struct {
	Title string
	Run   func(ctx context.Context, e *Env, r *Report)
}

// Steps returns the story.
func Steps() []Step {
	return []Step{
		{"Nobody gets in without a login", notLoggedIn},
		{"alice, Maintainer of haw/world, logs in and deploys", maintainer},
		{"bob, Developer, reads but may not change", developer},
		{"carol, a stranger to the project, can't even read", stranger},
		{"A CI job with environment ICC-K8s deploys; no other job can", ciJobs},
		{"The CI script on a laptop without a login is refused", ciScriptOnLaptop},
		{"alice is removed in GitLab", removal},
		{"mallory picks evil names and tries to climb out", attacker},
		{"dave takes another name and erin takes the old one", rename},
		{"GitLab goes down and comes back", outage},
		{"The page for people: what is mine, and a kubeconfig", thePage},
	}
}

// settle is how long the story waits for the cluster to follow GitLab before it calls that a failure.
const settle = 15 * time.Second

// anonymous makes kubectl send no credentials. Without these flags it would ask for a user name and a password.
var anonymous = []string{"--username=nobody", "--password="}

func notLoggedIn(ctx context.Context, e *Env, r *Report) {
	yesterday, err := e.yesterday("alice")
	if err != nil {
		r.Fail("making an expired token", err)
		return
	}
	r.Say("A token from yesterday:")
	o := e.run(ctx, r, yesterday, "get", "pods")
	r.Check(o.code != 0 && o.has("You must be logged in"), "kubectl says that a login is needed")
	if e.ownLogin {
		log, err := os.ReadFile(filepath.Join(e.Cluster.LogDir(), "kube-apiserver.log"))
		r.Check(err == nil && strings.Contains(string(log), "token is expired") && !strings.Contains(e.log.String(), "token_expired"),
			"kube-apiserver's log has the exact reason; the integrator was not asked")
	} else {
		r.Check(strings.Contains(e.log.String(), "token_expired"), "the integrator's log has the exact reason: token_expired")
	}

	r.Say("No token at all:")
	nobody, err := e.withToken("nobody", "")
	if err != nil {
		r.Fail("writing a kubeconfig", err)
		return
	}
	o = e.run(ctx, r, nobody, append(anonymous, "get", "--raw", "/api/v1/namespaces/haw-world/pods")...)
	r.Check(o.code != 0 && o.has("forbidden", "you are not logged in", "kubelogin"), "the refusal says how to log in")
}

// yesterday is somebody whose token has expired.
func (e *Env) yesterday(name string) (user, error) {
	token, err := e.GitLab.MintUserIDToken(e.user(name), clientID, gitlabsim.TokenOptions{Edit: func(c map[string]any) {
		past := time.Now().Add(-24 * time.Hour).Unix()
		c["iat"], c["exp"] = past-120, past
	}})
	if err != nil {
		return user{}, err
	}
	return e.withToken(name+"-yesterday", token)
}

func maintainer(ctx context.Context, e *Env, r *Report) {
	r.Say("alice's browser opens GitLab's login page; authorization code with PKCE, as kubelogin does it:")
	alice, err := e.login(ctx, "alice", "alice-password")
	if err != nil {
		r.Fail("logging in", err)
		return
	}
	o := e.run(ctx, r, alice, "auth", "whoami")
	r.Check(o.code == 0 && o.has(kubename.User(e.user("alice")), "alice"), "they are known by their GitLab number, and their name is shown")
	o = e.run(ctx, r, alice, "apply", "-f", "deploy_new.yaml")
	r.Check(o.code == 0 && o.has("deployment.apps/world"), "Maintainer may deploy in namespace haw-world")
	o = e.run(ctx, r, alice, "get", "deployments", "-n", "haw-world")
	r.Check(o.code == 0 && o.has("world"), "and sees it there")
}

func developer(ctx context.Context, e *Env, r *Report) {
	bob, err := e.login(ctx, "bob", "bob-password")
	if err != nil {
		r.Fail("logging in", err)
		return
	}
	o := e.run(ctx, r, bob, "get", "deployments")
	r.Check(o.code == 0 && o.has("world"), "Developer may read")
	// An apply that changes nothing writes nothing, and is not refused: bob wants another image.
	edited := filepath.Join(e.work, "bob")
	if err := e.editedManifest(edited); err != nil {
		r.Fail("editing deploy_new.yaml", err)
		return
	}
	r.Say("bob changes the image in a copy of deploy_new.yaml.")
	o = e.run(ctx, r, bob, "apply", "-f", "bob/deploy_new.yaml")
	r.Check(o.code != 0 && o.has("orbidden", "Developer in haw/world", "ask alice"), "the apply is refused, and kubectl says why and whom to ask")
	o = e.run(ctx, r, bob, "delete", "-f", "deploy_new.yaml")
	r.Check(o.code != 0 && o.has("forbidden", "delete deployments needs Maintainer or Owner"), "so is deleting")
	o = e.run(ctx, r, bob, "get", "namespaces")
	r.Check(o.code != 0 && o.has("Your namespaces:", "haw-world (view)") && !o.has("kube-system"), "all namespaces can't be listed; the refusal lists bob's own")
}

// editedManifest writes deploy_new.yaml with another image into a folder.
func (e *Env) editedManifest(dir string) error {
	manifest, err := os.ReadFile(filepath.Join(e.work, "deploy_new.yaml"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	edited := strings.ReplaceAll(string(manifest), "nginx:stable", "nginx:mainline")
	return os.WriteFile(filepath.Join(dir, "deploy_new.yaml"), []byte(edited), 0o600)
}

func stranger(ctx context.Context, e *Env, r *Report) {
	carol, err := e.login(ctx, "carol", "carol-password")
	if err != nil {
		r.Fail("logging in", err)
		return
	}
	o := e.run(ctx, r, carol, "get", "pods", "-n", "haw-world")
	r.Check(o.code != 0 && o.has("forbidden"), "a stranger can't read")
	none := e.run(ctx, r, carol, "get", "pods", "-n", "no-such-place")
	same := strings.ReplaceAll(o.text, "haw-world", "X") == strings.ReplaceAll(none.text, "no-such-place", "X")
	r.Check(same && !o.has("haw/world") && !o.has("alice"), "and learns nothing: a namespace that does not exist sounds the same")
}

// admin is the cluster's administrator.
func (e *Env) admin() user { return user{"admin", e.Cluster.AdminKubeconfig()} }

// job runs a CI job on the simulated runner and shows its log.
func (e *Env) job(ctx context.Context, r *Report, project, ref, name, by string) runner.Result {
	fmt.Fprintf(r.out, "   GitLab CI: %s, branch %s, job %s, started by %s\n", project, ref, name, by)
	res, err := runner.Run(ctx, e.GitLab, runner.Job{
		ProjectID: e.project(project), Ref: ref, JobName: name, TriggeredBy: e.user(by), Timeout: commandTimeout,
		Env: []string{"PATH=" + filepath.Dir(e.Cluster.Kubectl()) + ":/usr/bin:/bin", "HOME=" + e.home},
	})
	if err != nil {
		r.Fail("running the job", err)
		return res
	}
	r.show(res.Log)
	return res
}

func ciJobs(ctx context.Context, e *Env, r *Report) {
	e.kubectl(ctx, e.admin(), "-n", "haw-world", "delete", "deployment", "world", "--ignore-not-found")
	ok := e.job(ctx, r, "haw/world", "main", "deploy", "alice")
	o := e.kubectl(ctx, e.admin(), "-n", "haw-world", "get", "deployment", "world")
	r.Check(ok.Status == "success" && o.code == 0, "the job with environment ICC-K8s deployed into namespace haw-world, with an unchanged .gitlab-ci.yml")
	shown := e.job(ctx, r, "haw/world", "main", "show-token", "alice")
	r.Check(shown.Status == "success" && strings.Contains(shown.Log, "[MASKED]") && !strings.Contains(shown.Log, e.variable("KUBE_TOKEN")), "its token is masked in the log")

	for _, c := range []struct{ project, ref, job, by, why string }{
		{"haw/world", "main", "deploy-without-environment", "alice", "without environment: no credentials"},
		{"haw/world", "main", "deploy-to-staging", "alice", "in another environment: no credentials"},
		{"haw/world", "bobs-branch", "deploy", "bob", "on bob's unprotected branch: no credentials"},
	} {
		res := e.job(ctx, r, c.project, c.ref, c.job, c.by)
		none := true
		for _, v := range res.Variables {
			none = none && !strings.HasPrefix(v, "KUBE")
		}
		r.Check(res.Status == "failed" && none, "%s, refused", c.why)
	}
	other := e.job(ctx, r, "haw/other", "main", "deploy-into-world", "carol")
	r.Check(other.Status == "failed" && strings.Contains(other.Log, "good for that namespace alone"), "of another project: its own token is good for its own namespace alone")
}

func ciScriptOnLaptop(ctx context.Context, e *Env, r *Report) {
	yesterday, err := e.yesterday("alice")
	if err != nil {
		r.Fail("making an expired token", err)
		return
	}
	nobody, err := e.withToken("nobody", "")
	if err != nil {
		r.Fail("writing a kubeconfig", err)
		return
	}
	version := func() string {
		return e.kubectl(ctx, e.admin(), "-n", "haw-world", "get", "deployment", "world", "-o", "jsonpath={.metadata.resourceVersion}").text
	}
	before := version()
	r.Say("The script of the CI job, typed where the login is over:")
	o := e.run(ctx, r, yesterday, "apply", "-f", "deploy_new.yaml")
	r.Check(o.code != 0 && o.has("provide credentials"), "refused: the server asks for a login")
	r.Say("And where there never was one:")
	o = e.run(ctx, r, nobody, append(anonymous, "apply", "-f", "deploy_new.yaml")...)
	r.Check(o.code != 0, "refused (kubectl itself swallows the reason while it looks for the API's kinds)")
	o = e.run(ctx, r, nobody, append(anonymous, "get", "--raw", "/apis/apps/v1/namespaces/haw-world/deployments/world")...)
	r.Check(o.code != 0 && o.has("you are not logged in"), "the API server's own answer says why")
	r.Check(before != "" && before == version(), "and nothing was changed")
}

func removal(ctx context.Context, e *Env, r *Report) {
	alice, err := e.login(ctx, "alice", "alice-password")
	if err != nil {
		r.Fail("logging in", err)
		return
	}
	o := e.run(ctx, r, alice, "get", "pods")
	r.Check(o.code == 0, "alice still has their rights, and a token that is good for two minutes")
	r.Say("dave removes alice from haw/world in GitLab; GitLab sends its system hook.")
	start := time.Now()
	if err := e.GitLab.World().RemoveMember(gitlabsim.KindProject, e.project("haw/world"), e.user("alice")); err != nil {
		r.Fail("removing alice", err)
		return
	}
	_, ok := eventually(ctx, settle, func() bool {
		o = e.kubectl(ctx, alice, "get", "pods")
		return o.code != 0 && o.has("forbidden")
	})
	took := time.Since(start)
	fmt.Fprintf(r.out, "   alice$ kubectl get pods\n")
	r.show(o.text)
	e.revocation = took
	r.Check(ok, "refused %d ms after the removal in GitLab (kubectl's own start included), with a token that has not expired", took.Milliseconds())
}

// addGroup makes a group as that person does in GitLab, who then owns it, and returns the name of its namespace.
func (e *Env) addGroup(ctx context.Context, owner, path string) (namespace string, err error) {
	id, err := e.GitLab.World().AddGroup(gitlabsim.Group{
		Path: path, Name: path, Visibility: "private",
		Members: []gitlabsim.Member{{UserID: e.user(owner), Level: gitlabsim.Owner}},
	})
	if err != nil {
		return "", fmt.Errorf("making group %s: %w", path, err)
	}
	label := metav1.ListOptions{LabelSelector: fmt.Sprintf("%s=group-%d", kubename.LabelSource, id)}
	_, ok := eventually(ctx, settle, func() bool {
		list, err := e.Kube.CoreV1().Namespaces().List(ctx, label)
		if err == nil && len(list.Items) == 1 {
			namespace = list.Items[0].Name
		}
		return namespace != ""
	})
	if !ok {
		return "", errors.New("no namespace appeared for group " + path)
	}
	return namespace, nil
}

func attacker(ctx context.Context, e *Env, r *Report) {
	mallory, err := e.login(ctx, "mallory", "mallory-password")
	if err != nil {
		r.Fail("logging in", err)
		return
	}
	var own string
	for _, path := range []string{"Kube-System", "kube_system", "default"} {
		ns, err := e.addGroup(ctx, "mallory", path)
		if err != nil {
			r.Fail("following GitLab", err)
			return
		}
		r.Check(ns != "kube-system" && ns != "default", "group %s got the namespace %s", path, ns)
		own = ns
	}
	e.allowed(ctx, mallory, own)
	for _, ns := range []string{"kube-system", "default"} {
		o := e.run(ctx, r, mallory, "get", "secrets", "-n", ns)
		r.Check(o.code != 0 && o.has("forbidden"), "no right in the real %s", ns)
	}
	ci := "--as=" + kubename.ServiceAccountUser(own)
	r.Say("With edit they are every ServiceAccount of their namespace, so they try as the CI ServiceAccount:")
	o := e.run(ctx, r, mallory, ci, "label", "namespace", own, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
	r.Check(o.code != 0 && o.has("denied"), "the fence keeps them from relabelling their namespace")
	o = e.run(ctx, r, mallory, ci, "-n", own, "create", "rolebinding", "more", "--clusterrole=cluster-admin", "--user="+kubename.User(e.user("carol")))
	r.Check(o.code != 0 && o.has("forbidden"), "nobody can be raised, neither they nor another")
	o = e.run(ctx, r, mallory, ci, "-n", own, "delete", "rolebinding", "gitlab-edit")
	r.Check(o.code != 0 && o.has("denied"), "what the integrator owns can't be deleted")
	o = e.run(ctx, r, mallory, ci, "-n", own, "create", "token", kubename.CIServiceAccount, "--duration=87600h")
	r.Check(o.code != 0 && o.has("denied", "tokens of gitlab-serviceaccount are made by gl-k8s-integrator alone"), "no token that outlives their rights")
	asking := filepath.Join(e.work, "asking.yaml")
	if err := os.WriteFile(asking, fmt.Appendf(nil, reviewAboutDave, own, kubename.User(e.user("dave")), own), 0o600); err != nil {
		r.Fail("writing a manifest", err)
		return
	}
	o = e.run(ctx, r, mallory, ci, "create", "--validate=false", "-f", "asking.yaml", "-o", "jsonpath={.status.reason}")
	r.Check(o.code == 0 && o.has("is not one you have a GitLab role in") && !o.has("haw"), "mallory may ask what dave may do in their own namespace, and learns nothing of where else dave has rights")
	manifest := filepath.Join(e.work, "privileged.yaml")
	if err := os.WriteFile(manifest, []byte(privilegedPod), 0o600); err != nil {
		r.Fail("writing a manifest", err)
		return
	}
	o = e.run(ctx, r, mallory, "-n", own, "apply", "-f", "privileged.yaml")
	r.Check(o.code != 0 && o.has("PodSecurity", "privileged"), "no privileged pod")
}

const reviewAboutDave = `apiVersion: authorization.k8s.io/v1
kind: LocalSubjectAccessReview
metadata: {namespace: %s}
spec:
  user: %s
  resourceAttributes: {namespace: %s, verb: list, resource: pods}
`

const privilegedPod = `apiVersion: v1
kind: Pod
metadata: {name: root}
spec:
  containers:
    - {name: root, image: "nginx:stable", securityContext: {privileged: true}}
`

// allowed waits until a person may write in a namespace: the bindings follow the namespace by a moment.
func (e *Env) allowed(ctx context.Context, p user, ns string) bool {
	_, ok := eventually(ctx, settle, func() bool {
		return e.kubectl(ctx, p, "auth", "can-i", "create", "pods", "-n", ns).code == 0
	})
	return ok
}

func rename(ctx context.Context, e *Env, r *Report) {
	w := e.GitLab.World()
	id := e.user("dave")
	for _, change := range [][2]string{{"dave", "david"}, {"erin", "dave"}} {
		r.Say("%s is now called %s in GitLab.", change[0], change[1])
		if err := w.RenameUser(e.user(change[0]), change[1]); err != nil {
			r.Fail("renaming", err)
			return
		}
	}
	if err := e.GitLab.FlushHooks(ctx); err != nil {
		r.Fail("waiting for the hooks", err)
		return
	}
	erin, err := e.login(ctx, "dave", "erin-password")
	if err != nil {
		r.Fail("logging erin in by the new name", err)
		return
	}
	o := e.run(ctx, r, erin, "auth", "whoami")
	r.Check(o.code == 0 && !o.has(kubename.User(id)+" ") && o.has(kubename.User(e.user("dave"))), "the new dave is another number")
	o = e.run(ctx, r, erin, "get", "pods", "-n", "haw-world")
	r.Check(o.code != 0 && o.has("forbidden"), "the new dave got none of the old dave's rights")
	david, err := e.login(ctx, "david", "dave-password")
	if err != nil {
		r.Fail("logging the old dave in", err)
		return
	}
	o = e.run(ctx, r, david, "scale", "deployment/world", "--replicas=2", "-n", "haw-world")
	r.Check(o.code == 0, "the old dave keeps the rights")
}

func outage(ctx context.Context, e *Env, r *Report) {
	david, err := e.login(ctx, "david", "dave-password")
	if err != nil {
		r.Fail("logging in", err)
		return
	}
	before := e.bindings(ctx)
	r.Say("GitLab is down now: every connection to it breaks.")
	e.GitLab.SetFaults(gitlabsim.Faults{Down: true})
	down := time.Now()
	o := e.run(ctx, r, david, "scale", "deployment/world", "--replicas=3")
	r.Check(o.code == 0, "a token that was issued before works until it expires")
	ci, err := e.withToken("ci-job", e.variable("KUBE_TOKEN"))
	if err != nil {
		r.Fail("writing a kubeconfig", err)
		return
	}
	o = e.run(ctx, r, ci, "apply", "-f", "deploy_new.yaml")
	r.Check(o.code == 0, "so do the CI's credentials")
	r.Say("Meanwhile carol becomes Developer of haw/world; the hook is lost.")
	e.GitLab.SetHookPolicy(func(gitlabsim.Event) gitlabsim.HookAction { return gitlabsim.HookAction{Drop: true} })
	if err := e.GitLab.World().SetMember(gitlabsim.KindProject, e.project("haw/world"), e.user("carol"), gitlabsim.Developer, ""); err != nil {
		r.Fail("adding carol", err)
		return
	}
	r.Say("Waiting until a full round has failed …")
	failed, ok := eventually(ctx, 2*interval+settle, func() bool { return e.failedRounds() > 0 })
	r.Check(ok && e.bindings(ctx) == before, "a full round failed after %s, and no right was taken or given", failed.Round(time.Second))
	e.GitLab.SetFaults(gitlabsim.Faults{})
	e.GitLab.SetHookPolicy(nil)
	r.Say("GitLab is back after %s.", time.Since(down).Round(time.Second))
	carol, err := e.login(ctx, "carol", "carol-password")
	if err != nil {
		r.Fail("logging in", err)
		return
	}
	took, ok := eventually(ctx, 4*interval+settle, func() bool {
		o = e.kubectl(ctx, carol, "get", "pods", "-n", "haw-world")
		return o.code == 0
	})
	fmt.Fprintf(r.out, "   carol$ kubectl get pods -n haw-world\n")
	r.show(o.text)
	r.Check(ok, "the sync caught up within %s, without the hook", took.Round(time.Second))
}

// integratorAway is a step for a kube-apiserver that judges tokens by itself.
func integratorAway(ctx context.Context, e *Env, r *Report) {
	r.Say("The integrator is stopped: no webhook answers.")
	if err := e.stopIntegrator(); err != nil {
		r.Fail("stopping the integrator", err)
		return
	}
	david, err := e.login(ctx, "david", "dave-password")
	if err != nil {
		r.Fail("logging in", err)
		return
	}
	o := e.run(ctx, r, david, "auth", "whoami")
	r.Check(o.code == 0 && o.has(kubename.User(e.user("david")), "david"), "a login works, under the same name")
	o = e.run(ctx, r, david, "get", "deployments", "-n", "haw-world")
	r.Check(o.code == 0, "and rights are what they were")
	if err := e.startIntegrator(ctx); err != nil {
		r.Fail("starting the integrator again", err)
	}
}

// bindings returns all subjects of all RoleBindings of ours, for comparing.
func (e *Env) bindings(ctx context.Context) string {
	list, err := e.Kube.RbacV1().RoleBindings("").List(ctx, metav1.ListOptions{LabelSelector: kubename.LabelManagedBy + "=" + kubename.ManagedBy})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, rb := range list.Items {
		fmt.Fprintln(&b, rb.Namespace, rb.Name, rb.Subjects)
	}
	return b.String()
}

// lookPath says whether a program is installed; the closing hints depend on it.
func lookPath(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

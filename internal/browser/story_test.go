package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// TestPages opens the pages as people do. Each part has people of its own, and leaves the world as it was.
func TestPages(t *testing.T) {
	w := newWorld(t)
	c := startChromium(t, pin(t, w.gitlab.URL(), w.gitlab.CA()), pin(t, w.page, w.pageCA))
	t.Run("sign-in", func(t *testing.T) { signIn(t, w, c) })
	t.Run("from the page to kubectl get pods", func(t *testing.T) { toPods(t, w, c) })
	t.Run("why may I not", func(t *testing.T) { whyNot(t, w, c) })
	t.Run("an administrator approves", func(t *testing.T) { approve(t, w, c) })
	t.Run("without JavaScript", func(t *testing.T) { withoutScript(t, w, c) })
	t.Run("hundreds of namespaces", func(t *testing.T) { hundreds(t, w, c) })
	t.Run("hostile names", func(t *testing.T) { hostileNames(t, w, c) })
	t.Run("a form from elsewhere", func(t *testing.T) { forged(t, w, c) })
	t.Run("GitLab is away", func(t *testing.T) { gitlabAway(t, w, c) })
	t.Run("an expired session", func(t *testing.T) { expired(t, w, c) })
	t.Run("a blocked account", func(t *testing.T) { blocked(t, w, c) })
	t.Run("the look", func(t *testing.T) { look(t, w, c) })
	if !t.Failed() {
		checkScreenshots(t)
	}
}

// enter signs somebody in on the page, by its button, GitLab's form and, where GitLab asks, its consent page.
func (w *window) enter(page, name string) {
	w.t.Helper()
	w.open(page)
	w.press("Sign in with GitLab")
	w.signIn(name)
	if strings.Contains(w.text(), "to use your account?") {
		w.press("Authorize")
	}
	w.await(name+" is signed in", func() bool { return strings.HasPrefix(w.address(), page+"/namespaces") })
}

// signIn: the person is asked once by GitLab, comes back to the page that they wanted, and out again.
func signIn(t *testing.T, w *world, c *chromium) {
	alice := c.window(t, settings{})
	alice.open(w.page + "/namespaces/haw-world?from=a-link")
	alice.shows("Please sign in")
	alice.press("Sign in with GitLab")
	alice.signIn("alice")
	alice.shows("Authorize Kubernetes access to use your account?")
	alice.press("Authorize")
	alice.shows("Maintainer in haw/world")
	if at := alice.address(); at != w.page+"/namespaces/haw-world?from=a-link" {
		t.Errorf("after signing in: %s", at)
	}
	alice.press("Sign out")
	alice.shows("You are signed out")
	alice.open(w.page + "/namespaces")
	alice.shows("Please sign in")
	alice.press("Sign in with GitLab") // GitLab knows them, and has been told that the page may
	alice.shows("haw-world")

	refuses := c.window(t, settings{})
	refuses.open(w.page)
	refuses.press("Sign in with GitLab")
	refuses.signIn("bob")
	refuses.press("Deny")
	refuses.shows("GitLab did not sign you in")
}

// toPods is what a student does who has never used kubectl: sign in, download the file, copy three lines. Nobody does a step by hand,
// and nothing but the page says what to do. kubelogin is there, since installing it needs a network.
func toPods(t *testing.T, w *world, c *chromium) {
	begun := time.Now()
	bob := c.window(t, settings{})
	bob.enter(w.page, "bob")
	bob.await("bob's right is in the cluster", func() bool {
		_ = bob.visit(w.page + "/namespaces/haw-world")
		return strings.Contains(bob.textNow(), "view") && !strings.Contains(bob.textNow(), "being written")
	})
	bob.press("Connect kubectl")
	bob.shows("Copy these lines into a terminal")
	var opened atomic.Int32
	laptop := w.laptop(t, bob, func(tab *window) {
		opened.Add(1)
		tab.shows("Authenticated")
	})
	laptop.save(t, bob)
	lines := ask(bob, "reading the lines to copy", chromedp.Evaluate[string](`[...document.querySelectorAll(".steps > li")].at(-1).querySelector("pre").textContent`))
	if n := strings.Count(strings.TrimSpace(lines), "\n") + 1; n != 3 {
		t.Errorf("%d lines to copy:\n%s", n, lines)
	}
	out, err := laptop.run(t, lines)
	if err != nil || !strings.Contains(out, "No resources found in haw-world namespace.") {
		t.Fatalf("%v: %s\nprints\n%s", err, lines, out)
	}
	if opened.Load() != 1 {
		t.Errorf("kubelogin opened %d pages", opened.Load())
	}
	took := time.Since(begun)
	t.Logf("BENCH page.to_pods_seconds %.1f s", took.Seconds())
	if took > 3*time.Minute {
		t.Errorf("from the page to kubectl get pods in %v, want 3 minutes at most", took)
	}
	out, err = laptop.run(t, strings.Replace(lines, "kubectl get pods", "kubectl auth whoami && kubectl config view --minify --output=jsonpath={..namespace}", 1))
	if who := kubename.User(w.user("bob")); err != nil || !strings.Contains(out, who) || !strings.Contains(out, "haw-world") {
		t.Errorf("%v: not %s in haw-world:\n%s", err, who, out)
	}
}

// whyNot: a Developer asks by the form why they may not change something, and by what kubectl said.
func whyNot(t *testing.T, w *world, c *chromium) {
	bob := c.window(t, settings{})
	bob.enter(w.page, "bob")
	bob.press("Why can't I …?")
	bob.do("filling in the form", chromedp.SendKeys(chromedp.CSS("#namespace"), "haw-world"),
		chromedp.SetValue(chromedp.CSS("#verb"), "delete"), chromedp.SendKeys(chromedp.CSS("#resource"), "deploy"))
	bob.press("Explain")
	for _, want := range []string{"delete deployments", "Developer in haw/world", "alice"} {
		bob.shows(want)
	}
	said := fmt.Sprintf(`Error from server (Forbidden): pods is forbidden: User "%s" cannot create resource "pods" in API group "" in the namespace "haw-world": gitlab: …`, kubename.User(w.user("bob")))
	bob.open(w.page + "/why")
	bob.do("pasting what kubectl said", chromedp.SendKeys(chromedp.CSS("#message"), said))
	bob.click(`//form[.//textarea]//button`)
	bob.shows("create pods")
	bob.shows("Developer in haw/world")
	// What is not theirs is not told apart from what does not exist.
	var told [2]string
	for i, ns := range []string{"many", "no-such-namespace"} {
		bob.open(w.page + "/why?verb=get&resource=pods&namespace=" + ns)
		told[i] = strings.ReplaceAll(bob.text(), ns, "NAMESPACE")
	}
	if told[0] != told[1] {
		t.Errorf("a namespace of others:\n%s\none that does not exist:\n%s", told[0], told[1])
	}
}

// slowly looks each six seconds: each look at a page for administrators has GitLab asked who is one, and of what it allows half is
// kept for hooks. What others have left of that may be one look in six seconds.
func slowly(ok func() bool) func() bool {
	var looked time.Time
	return func() bool {
		if time.Since(looked) < 6*time.Second {
			return false
		}
		looked = time.Now()
		return ok()
	}
}

// approve: what is held waits for an administrator, who approves it on the page; nobody else sees that page.
func approve(t *testing.T, w *world, c *chromium) {
	dora := w.user("dora")
	var home int64
	w.gitlab.World().View(func(v *gitlabsim.View) { home = v.User(dora).NamespaceID })
	root := c.window(t, settings{})
	made := func(name string) func() bool {
		return func() bool {
			_, err := w.admin.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
			return err == nil
		}
	}
	// One more than an hour has turns for. Turns go by the time in GitLab, and hooks come in any order: the last one waits for the others.
	for i := range 4 {
		if i == 3 {
			for j := range i {
				root.await("the first namespaces are made", made(fmt.Sprintf("dora-new-%d", j)))
			}
		}
		if _, err := w.gitlab.World().AddProject(gitlabsim.Project{NamespaceID: home, Path: fmt.Sprintf("new-%d", i), Visibility: "private"}); err != nil {
			t.Fatal(err)
		}
	}
	root.enter(w.page, "root")
	root.press("Administration")
	root.shows("Status")
	root.await("something is held", slowly(func() bool {
		_ = root.visit(w.page + "/admin/held")
		return strings.Contains(root.textNow(), "Look at all 1 and decide")
	}))
	root.press("Look at all 1 and decide")
	root.shows("new namespace for")
	root.screenshot("approve")
	at := root.address()

	alice := c.window(t, settings{})
	alice.enter(w.page, "alice")
	for _, path := range []string{"/admin", "/admin/held", strings.TrimPrefix(at, w.page)} {
		alice.open(w.page + path)
		alice.shows("There is no such page")
	}
	forge(t, root, at, "This was not sent from our page")
	root.open(at)
	root.shows("Shall this happen?")

	root.press("Approve and let it happen")
	root.shows("Approved")
	root.await("the namespace is made", made("dora-new-3"))
	root.await("nothing is held any more", slowly(func() bool {
		_ = root.visit(w.page + "/admin/held")
		return strings.Contains(root.textNow(), "Nothing is held back")
	}))
	owner := c.window(t, settings{})
	owner.enter(w.page, "dora")
	owner.await("dora's changes have the namespace and who approved it", func() bool {
		_ = owner.visit(w.page + "/changes")
		return strings.Contains(owner.textNow(), "dora-new-3")
	})
	root.open(w.page + "/admin/search?q=dora")
	root.press("dora")
	root.shows("dora-new-3")
}

// forge has the browser send a form from a site on another port, and from another site; the answer has to say so.
func forge(t *testing.T, w *window, to, answer string) {
	t.Helper()
	evil := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, `<!doctype html><title>Evil</title><form action="%s" method="post"><button>Win a prize</button></form>`, to)
	}))
	defer evil.Close()
	for _, site := range []string{evil.URL, strings.Replace(evil.URL, "127.0.0.1", "localhost", 1)} {
		w.open(site)
		w.press("Win a prize")
		w.shows(answer)
	}
}

// withoutScript: everything works; GitLab's page that goes on by a script has a link.
func withoutScript(t *testing.T, w *world, c *chromium) {
	carol := c.window(t, settings{noScript: true})
	carol.enter(w.page, "carol")
	carol.shows("haw")
	carol.press("Sign out")
	carol.press("Sign in with GitLab")
	carol.click(`//a[starts-with(., "Click here to redirect")]`)
	carol.shows("My namespaces")
}

// hundreds: a person with hundreds finds one.
func hundreds(t *testing.T, w *world, c *chromium) {
	hanna := c.window(t, settings{})
	hanna.enter(w.page, "hanna")
	hanna.shows(fmt.Sprintf("1 to 50 of %d", many+2))
	hanna.press("Next")
	hanna.shows(fmt.Sprintf("51 to 100 of %d", many+2))
	hanna.do("searching", chromedp.SendKeys(chromedp.CSS("#q"), "p123"))
	hanna.press("Search")
	hanna.shows("many/p123")
	if text := hanna.text(); strings.Contains(text, "p124") {
		t.Errorf("a search for p123 shows\n%s", text)
	}
	hanna.press("Show all")
	hanna.shows("1 to 50")
}

// hostileNames: what is called like a script is text.
func hostileNames(t *testing.T, w *world, c *chromium) {
	xavier := c.window(t, settings{})
	xavier.enter(w.page, "xavier")
	xavier.shows("<script>alert(2)</script>") // the person's own name, in the head of the page
	for _, path := range []string{"/namespaces", "/namespaces/odd-thing", "/namespaces?q=<script>alert(4)</script>", "/namespaces/<script>alert(5)</script>"} {
		xavier.open(w.page + path)
		xavier.noDialog()
	}
}

// forged: a form that another site sends does nothing, although the browser has a session.
func forged(t *testing.T, w *world, c *chromium) {
	bob := c.window(t, settings{})
	bob.enter(w.page, "bob")
	forge(t, bob, w.page+"/signout", "This was not sent from our page")
	bob.open(w.page + "/namespaces")
	bob.shows("haw-world")
}

// gitlabAway: who is signed in goes on, who is on the way is told, and can go on when it is back.
func gitlabAway(t *testing.T, w *world, c *chromium) {
	bob := c.window(t, settings{})
	bob.enter(w.page, "bob")
	stranger := c.window(t, settings{})
	stranger.open(w.page)
	stranger.press("Sign in with GitLab")
	defer w.gitlab.SetFaults(gitlabsim.Faults{})
	w.gitlab.SetFaults(gitlabsim.Faults{Rules: []gitlabsim.FaultRule{{PathPrefix: "/oauth/token", Close: true}}})
	stranger.signIn("alice")
	stranger.shows("GitLab can not be reached")
	stranger.screenshot("gitlab-away")
	w.gitlab.SetFaults(gitlabsim.Faults{Down: true})
	bob.open(w.page + "/namespaces")
	bob.shows("haw-world")
	w.gitlab.SetFaults(gitlabsim.Faults{})
	stranger.press("Sign in with GitLab")
	stranger.shows("haw-world")
}

// expired: who comes back after the session has ended signs in again, and is where they were.
func expired(t *testing.T, w *world, c *chromium) {
	bob := c.window(t, settings{})
	bob.enter(w.page, "bob")
	if err := os.WriteFile(filepath.Join(w.dir, "session-key"), []byte(sessionKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	bob.open(w.page + "/namespaces?q=world")
	bob.shows("Your session has ended")
	bob.press("Sign in with GitLab")
	bob.shows("haw-world")
	if at := bob.address(); at != w.page+"/namespaces?q=world" {
		t.Errorf("after signing in again: %s", at)
	}
}

// blocked: an account that is blocked loses its session, and reads why.
func blocked(t *testing.T, w *world, c *chromium) {
	carol := c.window(t, settings{})
	carol.enter(w.page, "carol")
	if err := w.gitlab.World().SetUserState(w.user("carol"), gitlabsim.StateBlocked); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.gitlab.World().SetUserState(w.user("carol"), gitlabsim.StateActive); err != nil {
			t.Error(err)
		}
	}()
	carol.await("the page says that the account is blocked", func() bool {
		_ = carol.visit(w.page + "/namespaces")
		return strings.Contains(carol.textNow(), "Your account can not sign in")
	})
}

// shown is a page for the look, as a person sees it.
type shown struct {
	path, person string
	picture      string // its name in docs/screenshots; "": there is none
}

// pages are those that are looked at: all, and some that tell of a problem.
func pages() []shown {
	return []shown{
		{"/", "", "start"},
		{"/signedout", "", ""},
		{"/refused", "", "refused"},
		{"/refused?code=user_blocked", "alice", ""},
		{"/namespaces", "alice", "namespaces"},
		{"/namespaces?q=nothing", "alice", ""},
		{"/namespaces", "hanna", ""},
		{"/namespaces/haw-world", "alice", "namespace"},
		{"/namespaces/kube-system", "alice", ""},
		{"/connect?system=linux&namespace=haw-world", "alice", "connect"},
		{"/connect?system=windows", "alice", ""},
		{"/connect?system=headless", "alice", ""},
		{"/why?verb=delete&resource=deployments&namespace=haw-world", "bob", "why"},
		{"/ci", "alice", "ci"},
		{"/changes", "dora", "changes"},
		{"/admin", "root", "admin"},
		{"/admin/findings", "root", "findings"},
		{"/admin/held", "root", ""},
		{"/admin/search?q=haw", "root", ""},
		{"/admin/people/2", "root", ""},
		{"/admin/namespaces/haw-world", "root", "admin-namespace"},
		{"/no-such-page", "alice", ""},
	}
}

// look: every page is accessible, in light and dark, in both languages, and has room on a phone; some have their picture in the docs.
func look(t *testing.T, w *world, c *chromium) {
	axe := axeScript(t)
	if axe == "" {
		t.Log("SKIPPED: axe-core as in testdata/axe/package-lock.json is not installed (.ci/run installs it): nobody looked at the pages' accessibility")
	}
	of := map[string][]shown{}
	for _, p := range pages() {
		of[p.person] = append(of[p.person], p)
	}
	for name, list := range of {
		t.Run("of "+name, func(t *testing.T) {
			t.Parallel()
			person := c.window(t, settings{})
			if name != "" {
				person.enter(w.page, name)
			}
			for _, p := range list {
				person.looksAt(w, p, axe)
			}
		})
	}
}

func (w *window) looksAt(at *world, p shown, axe string) {
	w.t.Helper()
	for _, language := range []string{"de", "en"} {
		w.prefers(language, "light")
		w.open(at.page + p.path)
		if text := w.text(); strings.Contains(text, "Something went wrong") || strings.Contains(text, "There is no such page") != (p.path == "/no-such-page" && language == "en") {
			w.t.Errorf("%s, %s shows\n%s", p.path, language, text)
		}
		w.fits(p.path + ", " + language)
		if axe != "" {
			w.accessible(p.path+", "+language, axe)
		}
	}
	w.setScheme("dark")
	if axe != "" {
		w.accessible(p.path+", dark", axe, "color-contrast") // all else is as in light
	}
	if p.picture == "namespaces" {
		w.screenshot(p.picture + "-dark")
	}
	w.setScheme("light")
	if p.picture != "" {
		w.screenshot(p.picture)
	}
	w.resize(390, 844)
	w.fits(p.path + " on a phone")
	if p.picture == "namespaces" {
		w.screenshot(p.picture + "-phone")
	}
	w.resize(1280, 800)
}

package kubectlgitlab

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// TestWithARealCluster runs the plug-in by the real kubectl, with the real kubelogin and kube-apiserver, and with the handlers
// of our server.
func TestWithARealCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts a control plane")
	}
	e := newEnv(t)
	alice := e.laptop(t, "alice", "haw-world", "lab")
	t.Run("kubectl finds it", func(t *testing.T) { found(t, alice) })
	t.Run("login", func(t *testing.T) {
		alice.gitlab(t, "login").want(t, exitOK, "logged in to icc/cluster as gitlab:2, alice in GitLab", "until 20")
		alice.kubectl(t, "get", "pods").want(t, 0, "No resources found in haw-world namespace")
	})
	t.Run("pages", func(t *testing.T) { pageRuns(t, alice) })
	t.Run("whoami", func(t *testing.T) {
		alice.gitlab(t, "whoami").want(t, exitOK, "alice (Alice Adams) number 2", "gitlab:users", "kubectl-oidc_login logged you in at "+e.gitlab.URL(), "; then the next command gets a new token")
	})
	t.Run("namespaces", func(t *testing.T) { namespaces(t, alice) })
	t.Run("can", func(t *testing.T) { can(t, alice) })
	t.Run("use", func(t *testing.T) { use(t, alice) })
	t.Run("ci", func(t *testing.T) { ci(t, alice) })
	t.Run("without the server", func(t *testing.T) { withoutServer(t, alice) })
	t.Run("without reasons", func(t *testing.T) { withoutReasons(t, e) })
	t.Run("headless", func(t *testing.T) { headless(t, e) })
	t.Run("logout", func(t *testing.T) {
		alice.gitlab(t, "logout").want(t, exitOK, "Deleted the token cache from "+filepath.Join(alice.home, "tokens"), "logged out on this machine")
		if _, err := os.Stat(filepath.Join(alice.home, "tokens")); !os.IsNotExist(err) {
			t.Errorf("the tokens are still there: %v", err)
		}
	})
}

func found(t *testing.T, l *laptop) {
	l.kubectl(t, "plugin", "list").want(t, 0, filepath.Join(l.bin, programName))
	l.kubectl(t, "gitlab", "--help").want(t, 0, "kubectl gitlab [command]")
	l.kubectl(t, "__complete", "gitlab", "who").want(t, 0, "whoami\tWho you are to the cluster")
	l.kubectl(t, "__complete", "gitlab", "use", "").want(t, 0, "haw-world\nlab\n")
	for shell, line := range map[string]string{"bash": "complete -p kubectl-gitlab", "zsh": "", "fish": "", "powershell": ""} {
		o := l.gitlab(t, "completion", shell)
		o.want(t, exitOK, programName)
		program, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		if said, err := l.command(t, program, "-c", o.out+"\n"+line).CombinedOutput(); err != nil {
			t.Errorf("%s does not take its completion: %v\n%s", shell, err, said)
		}
	}
}

func namespaces(t *testing.T, l *laptop) {
	l.gitlab(t, "namespaces").want(t, exitOK, "*   haw-world   edit   haw/world   ready", "    lab         view   lab         ready", "    lab-x       view   lab/x       ready")
	l.gitlab(t, "ns", "-o", "wide").want(t, exitOK, "Maintainer in haw/world", "inherited from lab", "2099-12-31", "variables, good until ")
	if o := l.gitlab(t, "namespaces", "-o", "name"); o.out != "namespace/haw-world\nnamespace/lab\nnamespace/lab-x\n" {
		t.Errorf("-o name: %q", o.out)
	}
	var mine webapi.MyNamespaces
	if o := l.gitlab(t, "namespaces", "-o", "json"); json.Unmarshal([]byte(o.out), &mine) != nil || mine.User.Username != "alice" || len(mine.Namespaces) != 3 || mine.Namespaces[0].Source == "" {
		t.Errorf("-o json: %s%s", o.out, o.err)
	}
}

// can asks kubectl the same: the plug-in must never say anything else.
func can(t *testing.T, l *laptop) {
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"create pods -n haw-world", exitOK, "yes: create pods in haw-world"},
		{"create deploy -n haw-world", exitOK, "yes: create deployments.apps in haw-world"},
		{"get pods", exitOK, "Maintainer in haw/world"},
		{"get pods/web --subresource=log", exitOK, "get pods/log web in haw-world"},
		{"get pods/log", exitOK, "--subresource=log"},
		{"delete deployments.v1.apps -n lab", exitNo, "you are Developer in lab"},
		{"get pods -n haw-other", exitNo, `is not one you have a GitLab role in`},
		{"list namespaces", exitNo, "Your namespaces: "},
		{"get ns/haw-world", exitOK, "yes: get namespaces haw-world in haw-world"},
		{"get nodes", exitNo, "no: get nodes in the whole cluster"},
		{"get unicorns", exitNo, `the cluster has no resource "unicorns"`},
		{"get *", exitNo, "get * in haw-world"},
	} {
		args := strings.Fields(c.args)
		if o := l.gitlab(t, slices.Concat([]string{"can", "-q"}, args)...); o.out != "" || o.code != c.code {
			t.Errorf("%s -q: %d %q", c.args, o.code, o.out)
		}
		o := l.gitlab(t, slices.Concat([]string{"can"}, args)...)
		o.want(t, c.code, c.says)
		if strings.Contains(o.out, " in the whole cluster\n") {
			args = append(args, "--all-namespaces") // without it kubectl asks about the namespace of the context, which no request is about
		}
		theirs := l.kubectl(t, slices.Concat([]string{"auth", "can-i"}, args)...)
		if (theirs.code == 0) != (c.code == exitOK) {
			t.Errorf("%s: kubectl auth can-i says %s%s", c.args, theirs.out, theirs.err)
		}
	}
}

func use(t *testing.T, l *laptop) {
	l.gitlab(t, "use", "lab").want(t, exitOK, "context icc/lab, namespace lab")
	l.gitlab(t, "use", "lab-x").want(t, exitOK, "context icc/lab-x, namespace lab-x")
	l.kubectl(t, "get", "pods").want(t, 0, "in lab-x namespace")
	l.kubectl(t, "config", "current-context").want(t, 0, "icc/lab-x")
	before := read(t, l.config)
	l.gitlab(t, "use", "haw-wrold").want(t, exitNo, "you may not list pods in haw-wrold", "--force")
	if read(t, l.config) != before {
		t.Error("the kubeconfig was changed for a namespace that is none of theirs")
	}
	l.gitlab(t, "use", "haw-world").want(t, exitOK, "context icc/haw-world")
	l.gitlab(t, "whoami", "--context", "icc/lab-x").want(t, exitOK, "lab-x")
}

func git(t *testing.T, l *laptop, remote string) {
	t.Helper()
	if out, err := l.command(t, "/bin/sh", "-ec", "rm -rf .git; git init -q .; git remote add origin "+remote).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func ci(t *testing.T, l *laptop) {
	if err := os.RemoveAll(filepath.Join(l.work, ".git")); err != nil {
		t.Fatal(err)
	}
	l.gitlab(t, "ci").want(t, exitNo, "asking git for the remote origin", "--project")
	u, err := url.Parse(l.env.gitlab.URL())
	if err != nil {
		t.Fatal(err)
	}
	for _, remote := range []string{"git@" + u.Hostname() + ":haw/world.git", l.env.gitlab.URL() + "/haw/world.git"} {
		git(t, l, remote)
		l.gitlab(t, "ci").want(t, exitOK, "haw/world number ", "ICC-K8s", "variables", "in 27 days; they are replaced before", "the project has its credentials (20", "5 days ago")
	}
	git(t, l, "https://github.com/haw/world.git")
	l.gitlab(t, "ci").want(t, exitNo, "the git remote is at github.com, not at "+u.Host)
	l.gitlab(t, "ci", "--project", "lab/x").want(t, exitOK, "lab/x number ")
	l.gitlab(t, "ci", "--project", "haw/other").want(t, exitNo, "project haw/other: no such project")
}

// withoutServer: each command says what the cluster alone knows, and that it is not all.
func withoutServer(t *testing.T, l *laptop) {
	const note = "What follows is what the cluster alone says"
	l.away.Store(true)
	defer l.away.Store(false)
	l.gitlab(t, "whoami").want(t, exitOK, note, "alice number 2", "HTTP status 502")
	l.gitlab(t, "namespaces").want(t, exitOK, note, "*   haw-world   edit   haw/world   ready", "    lab-x       view   lab/x       ready")
	l.gitlab(t, "can", "delete", "pods", "-n", "lab").want(t, exitNo, note, "you are Developer in lab")
	l.gitlab(t, "ci", "--project=haw/world").want(t, exitOK, note, "ServiceAccount gitlab-serviceaccount   there", "only the integrator's server knows")
	l.gitlab(t, "ci", "--project=lab/x").want(t, exitOK, "not there: the project's jobs get no token of it")
	l.gitlab(t, "ci", "--project=haw/other").want(t, exitNo, "no namespace of yours belongs to project haw/other")

	// A kubeconfig that names no server is nothing to complain about.
	l.away.Store(false)
	named := read(t, l.config)
	defer write(t, l.config, named)
	write(t, l.config, regexp.MustCompile(`(?m)^( +)server: `+regexp.QuoteMeta(l.env.server.URL)+`$`).ReplaceAllString(named, "${1}nothing: true"))
	if o := l.gitlab(t, "namespaces", "-o", "name"); o.code != exitOK || o.err != "" || o.out != "namespace/haw-world\nnamespace/lab\nnamespace/lab-x\n" {
		t.Errorf("without a server in the kubeconfig: %d %s%s", o.code, o.out, o.err)
	}
	l.gitlab(t, "ci", "--project=haw/world").want(t, exitOK, "your kubeconfig names none")
	l.gitlab(t, "namespaces", "--server="+l.env.server.URL, "--server-ca="+write(t, filepath.Join(l.home, "server-ca.crt"), string(certificate(l.env.server))), "-o", "wide").
		want(t, exitOK, "Maintainer in haw/world")
}

// withoutReasons: a cluster whose webhook is away, or gives no reasons.
func withoutReasons(t *testing.T, e *env) {
	carol := e.laptop(t, "carol", "haw", "haw-world") // nothing of whom kube-apiserver remembers
	e.away.Store(true)
	defer e.away.Store(false)
	defer e.silent.Store(0)
	for _, status := range []int32{http.StatusBadGateway, http.StatusOK} {
		e.silent.Store(status)
		carol.gitlab(t, "namespaces").want(t, exitOK, "these are those of your kubeconfig", "*   haw         -      haw", "haw-world   -      haw/world")
	}
	carol.gitlab(t, "use", "lab").want(t, exitNo, "no role of yours allows it")
	carol.gitlab(t, "can", "get", "pods", "-n", "lab").want(t, exitNo, "no: get pods in lab\n")
	carol.gitlab(t, "ci", "--project=lab/x").want(t, exitNo, "no namespace of yours belongs to project lab/x")
}

// visit is the line in which kubelogin names the page to log in on.
var visit = regexp.MustCompile(`visit the following URL in your browser: (\S+)`)

// headless logs bob in on a machine without a browser: the code comes from the address that their browser elsewhere ends at.
func headless(t *testing.T, e *env) {
	script, err := exec.LookPath("script")
	if err != nil {
		t.Skip("needs script (Debian: bsdutils), which gives a terminal")
	}
	bob := e.laptop(t, "nobody", "haw-world")
	bob.gitlab(t, "login", "--headless").want(t, exitNo, "run this in a terminal")
	cmd := bob.command(t, script, "-qec", "kubectl gitlab login --headless", "/dev/null")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen := bufio.NewReader(out)
	line, _ := screen.ReadString('\n')
	m := visit.FindStringSubmatch(line)
	if m == nil {
		rest, _ := io.ReadAll(screen)
		t.Fatalf("no page to visit: %s%s", line, rest)
	}
	end := e.login(t, m[1], "bob")
	if end.Host != "localhost:8000" || end.Query().Get("code") == "" {
		t.Errorf("the browser ends at %s", end)
	}
	if _, err := io.WriteString(in, end.Query().Get("code")+"\n"); err != nil {
		t.Error(err)
	}
	rest, _ := io.ReadAll(screen)
	if err := cmd.Wait(); err != nil || !strings.Contains(string(rest), "logged in to icc/cluster as gitlab:3, bob in GitLab") {
		t.Fatalf("%v: %s", err, rest)
	}
	// The token is kept for kubectl itself.
	bob.kubectl(t, "auth", "whoami").want(t, 0, "gitlab:3")
	bob.gitlab(t, "whoami").want(t, exitOK, "bob (Bob Baker) number 3")
	if text := read(t, bob.config); !strings.Contains(text, "--grant-type="+keyboardGrant) || !strings.Contains(text, "--browser-command=") {
		t.Errorf("the kubeconfig is\n%s", text)
	}
}

package kubectlgitlab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestProjectOfARemote(t *testing.T) {
	const issuer = "https://gitlab.example.com"
	for _, c := range []struct{ address, issuer, want string }{
		{"git@gitlab.example.com:haw/world.git", issuer, "haw/world"},
		{"gitlab.example.com:haw/labs/world", issuer, "haw/labs/world"},
		{"ssh://git@gitlab.example.com:2222/haw/world.git", issuer, "haw/world"},
		{"https://gitlab.example.com/haw/world.git", issuer, "haw/world"},
		{"https://GitLab.example.com/haw/world/", issuer, "haw/world"},
		{"https://alice:secret@gitlab.example.com:8443/haw/world.git", issuer, "haw/world"},
		{"https://example.com/gitlab/haw/world.git", "https://example.com/gitlab", "haw/world"},
		{"git@example.com:haw/world.git", "https://example.com/gitlab", "haw/world"},
		{"git@github.com:haw/world.git", "", "haw/world"},
		{"git@github.com:haw/world.git", issuer, "error: the git remote is at github.com, not at gitlab.example.com"},
		{"https://github.com/haw/world.git", issuer, "error: the git remote is at github.com"},
		{"https://gitlab.example.com/world.git", issuer, "error: which is no path of a project"},
		{"../world", issuer, "error: is no address of GitLab"},
		{"file:///srv/secret", issuer, "error: is no address of GitLab"},
	} {
		got, err := projectOf(c.address, c.issuer)
		if wrong, ok := strings.CutPrefix(c.want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), wrong) {
				t.Errorf("%s: %q, %v, want an error with %q", c.address, got, err, wrong)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.address, got, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error repeats a secret: %v", c.address, err)
		}
	}
}

func TestGrantArgs(t *testing.T) {
	for _, c := range []struct{ args, headless, browser string }{
		{"get-token --a=1", "get-token --a=1 --grant-type=authcode-keyboard --oidc-redirect-url=http://localhost:8000", "get-token --a=1"},
		{"get-token --grant-type=authcode-keyboard --a=1 --oidc-redirect-url=urn:x", "get-token --a=1 --grant-type=authcode-keyboard --oidc-redirect-url=http://localhost:8000", "get-token --a=1"},
		{"get-token --grant-type device-code --a", "get-token --a --grant-type=authcode-keyboard --oidc-redirect-url=http://localhost:8000", "get-token --a"},
	} {
		args := strings.Fields(c.args)
		for headless, want := range map[bool]string{true: c.headless, false: c.browser} {
			once := grantArgs(args, headless)
			if got := strings.Join(once, " "); got != want {
				t.Errorf("%s, headless %v: %s, want %s", c.args, headless, got, want)
			}
			if twice := grantArgs(once, headless); !slices.Equal(once, twice) {
				t.Errorf("%s, headless %v, twice: %v", c.args, headless, twice)
			}
		}
		if strings.Join(args, " ") != c.args {
			t.Errorf("the arguments were changed: %v", args)
		}
	}
}

func TestFindResources(t *testing.T) {
	ks := kinds{
		{group: "", version: "v1", plural: "pods", singular: "pod", kind: "pod", short: []string{"po"}},
		{group: "", version: "v1", plural: "events", singular: "event", kind: "event", short: []string{"ev"}},
		{group: "apps", version: "v1", plural: "deployments", singular: "deployment", kind: "deployment", short: []string{"deploy"}},
		{group: "events.k8s.io", version: "v1", plural: "events", singular: "event", kind: "event", short: []string{"ev"}},
		{group: "metrics.k8s.io", version: "v1beta1", plural: "pods", kind: "podmetrics"},
		{group: "example.com", version: "v1", plural: "po"},
	}
	for name, want := range map[string]string{
		"pods": "pods.", "pod": "pods.", "po": "po.example.com", "Pod": "pods.", "deploy": "deployments.apps", "deployments.apps": "deployments.apps",
		"deploy.apps": "deployments.apps", "deployments.v1.apps": "deployments.apps", "events": "events.", "ev.events.k8s.io": "events.events.k8s.io",
		"podmetrics": "pods.metrics.k8s.io", "deployments.v2.apps": "", "nothing": "", "deployments.": "",
	} {
		got := ""
		if k, ok := ks.find(name); ok {
			got = k.plural + "." + k.group
		}
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "in 0 seconds", time.Second: "in 1 second", 90 * time.Second: "in 90 seconds", 2 * time.Minute: "in 2 minutes", 119*time.Minute + 59*time.Second: "in 119 minutes",
		2 * time.Hour: "in 2 hours", 47 * time.Hour: "in 47 hours", 48 * time.Hour: "in 2 days", -3 * time.Minute: "3 minutes ago", -time.Second: "1 second ago",
	} {
		if got := distance(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// TestPlainText: what somebody calls their group moves no cursor, and is no column of a table.
func TestPlainText(t *testing.T) {
	var out strings.Builder
	if err := table(plain{&out}, [][]string{{"a", "évil\x1b[31m\u202e", "x\ty\nz"}, {"longer", "", "b"}}); err != nil {
		t.Fatal(err)
	}
	if want := "a        évil\uFFFD[31m\uFFFD   x y z\nlonger   -            b\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// TestCleanDeletesTokensAlone: kubelogin's clean removes its whole folder, so that must have nothing else in it.
func TestCleanDeletesTokensAlone(t *testing.T) {
	token := strings.Repeat("0a", 32)
	for _, c := range []struct {
		files []string
		ok    bool
	}{{nil, true}, {[]string{token, token + ".lock"}, true}, {[]string{token, "config"}, false}, {[]string{token + "0"}, false}} {
		home := t.TempDir()
		t.Setenv("HOME", home)
		t.Setenv("USERPROFILE", home)
		dir := filepath.Join(home, "tokens")
		if len(c.files) > 0 {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range c.files {
			write(t, filepath.Join(dir, name), "x")
		}
		for _, folder := range []string{dir, "~/tokens"} {
			if err := onlyTokens(folder); (err == nil) != c.ok {
				t.Errorf("%s with %v: %v", folder, c.files, err)
			}
		}
	}
}

func TestServerURL(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://access.example.com": true, "https://access.example.com:8443/gl/": true, "http://127.0.0.1:8080": true, "http://[::1]:8080": true, "http://localhost": true,
		"http://access.example.com": false, "http://127.0.0.1.example.com": false, "http://localhost.example.com": false, "access.example.com": false,
		"https://": false, "https://user:secret@access.example.com": false, "https://access.example.com?x=1": false, "https://access.example.com#x": false,
		"ftp://access.example.com": false, "//access.example.com": false, "https:access.example.com": false, "http://127.0.0.1@evil.example.com": false,
	} {
		_, err := serverURL(text)
		if (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error repeats a password: %v", text, err)
		}
	}
}

func TestReadYoursOfOthers(t *testing.T) {
	for _, message := range []string{
		"", `namespaces is forbidden: User "gitlab:2" cannot list resource "namespaces" in API group "" at the cluster scope`,
	} {
		if rows, rest, said := readYours(message); said || rows != nil || rest != "" {
			t.Errorf("%q: %v %q %v", message, rows, rest, said)
		}
	}
}

// TestExitStatuses: those of can say nothing wrong when the command line is.
func TestExitStatuses(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitOK, "kubectl gitlab [command]"},
		{[]string{"--version"}, exitOK, "v1.2.3"},
		{[]string{"whoami"}, exitNo, "kubectl gitlab whoami: there is no context in"},
		{[]string{"whoami", "too", "many"}, exitNo, "unknown command"},
		{[]string{"nothing"}, exitNo, `unknown command "nothing"`},
		{[]string{"can", "get"}, exitUnknown, "accepts 2 arg(s)"},
		{[]string{"can", "get", "pods"}, exitUnknown, "there is no context"},
		{[]string{"can", "get", "pods", "--nothing"}, exitUnknown, "unknown flag"},
		{[]string{"namespaces", "-o", "yaml"}, exitNo, `want wide, name or json, not "yaml"`},
		{[]string{"use", "haw-world"}, exitNo, "there is no context"},
		{[]string{"login", "--headless", "--browser"}, exitNo, "none of the others can be"},
	} {
		t.Run(fmt.Sprint(c.args), func(t *testing.T) { run(t, c.args...).want(t, c.code, c.says) })
	}
}

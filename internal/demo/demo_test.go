package demo

import (
	"context"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

func TestMain(m *testing.M) {
	if os.Getenv(browserCA) != "" {
		os.Exit(browser())
	}
	goleak.VerifyTestMain(m)
}

// testWriter shows the story in the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// TestNothingIsPrintedAfterAnInterrupt: a command that was broken off proves nothing.
func TestNothingIsPrintedAfterAnInterrupt(t *testing.T) {
	var shown strings.Builder
	ctx, interrupt := context.WithCancel(t.Context())
	r := &Report{out: untilDone{&shown, ctx.Done()}, secret: hide}
	r.Say("before")
	interrupt()
	r.Say("after")
	r.Check(true, "refused")
	r.show("signal: killed")
	if shown.String() != "   before\n" {
		t.Errorf("told:\n%s", shown.String())
	}
}

// TestStory runs each step of `make demo` as a test, on a real control plane.
func TestStory(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	ctx := t.Context()
	e, err := Start(ctx, t.TempDir(), false, testWriter{t})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("The real kubelogin", func(t *testing.T) { kubelogin(t, e) })
	t.Run("A machine without a browser, by hand", func(t *testing.T) { headless(t, e, execArgs(t, e)) })
	t.Run("A machine without a browser, by the kubeconfig", func(t *testing.T) { headless(t, e, fileArgs(t, e)) })
	t.Run("The commands of the docs", func(t *testing.T) { docs(t, e) })
	t.Run("A plan", func(t *testing.T) { plan(t, e) })
	var shown strings.Builder
	for _, s := range Steps() {
		t.Run(s.Title, func(t *testing.T) {
			r := &Report{out: &shown, secret: hide}
			before := shown.Len()
			s.Run(ctx, e, r)
			for _, f := range r.failed {
				t.Error(f)
			}
			if t.Failed() {
				t.Log("\n" + shown.String()[before:])
			}
		})
	}
	secrets := map[string]string{"the CI token": e.variable("KUBE_TOKEN")}
	e.GitLab.World().View(func(v *gitlabsim.View) {
		for _, u := range v.Users() {
			secrets["the password of "+u.Username] = u.Password
		}
	})
	log := e.log.String()
	if err := e.Close(); err != nil {
		t.Errorf("stopping everything: %v", err)
	}
	// No token in what people see, and none in the log (docs/invariants.md, invariant 1).
	for what, text := range map[string]string{"the story": shown.String(), "the integrator's log": log} {
		if found := jwt.FindString(text); found != "" {
			t.Errorf("%s shows a token", what)
		}
		for name, secret := range secrets {
			if secret == "" || strings.Contains(text, secret) {
				t.Errorf("%s shows %s, or there was none", what, name)
			}
		}
		for _, prefix := range []string{"glpat-", "glcbt-", "demo-hook-secret"} {
			if strings.Contains(text, prefix) {
				t.Errorf("%s contains %q", what, prefix)
			}
		}
	}
}

// TestStoryWithoutTokenReviews runs the same steps where kube-apiserver judges tokens by itself.
func TestStoryWithoutTokenReviews(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	var shown strings.Builder
	if err := Run(t.Context(), Options{Out: &shown, Once: true, OwnLogin: true, Dir: t.TempDir()}); err != nil {
		t.Errorf("%v\n%s", err, shown.String())
	}
}

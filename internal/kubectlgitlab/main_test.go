package kubectlgitlab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// browserCA names GitLab's CA file and makes the test binary the browser that kubelogin opens.
const browserCA = "KUBECTL_GITLAB_TEST_BROWSER_CA"

// TestMain makes the test binary what it is called as: the plug-in, or the browser in which somebody logs in.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == programName, name == completerName:
		os.Exit(Run(context.Background(), Process{Args: os.Args, Version: "v1.2.3", In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	case os.Getenv(browserCA) != "":
		if err := browse(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// browse logs in at the address that kubelogin gives as the last argument, as the user that a variable names.
func browse() error {
	pem, err := os.ReadFile(os.Getenv(browserCA))
	if err != nil {
		return err
	}
	client, err := gitlab.NewHTTPClient(pem, time.Minute)
	if err != nil {
		return err
	}
	name := os.Getenv("KUBECTL_GITLAB_TEST_USER")
	return gitlabsim.Browse(context.Background(), client, os.Args[len(os.Args)-1], name, name+"-password")
}

// outcome is what a run of the plug-in came to.
type outcome struct {
	code     int
	out, err string
}

// run runs the plug-in in this process.
func run(t *testing.T, args ...string) outcome {
	t.Helper()
	var out, problems strings.Builder
	code := Run(t.Context(), Process{Args: append([]string{programName}, args...), Version: "v1.2.3", In: strings.NewReader(""), Out: &out, Err: &problems})
	return outcome{code, out.String(), problems.String()}
}

// want fails unless the outcome has that exit status, and each of the texts.
func (o outcome) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit status %d, want %d\n%s%s", o.code, code, o.out, o.err)
	}
	for _, text := range texts {
		if !strings.Contains(o.out+o.err, text) {
			t.Errorf("it does not say %q:\n%s%s", text, o.out, o.err)
		}
	}
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

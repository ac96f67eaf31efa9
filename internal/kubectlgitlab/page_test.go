package kubectlgitlab

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// login logs somebody in at a page of GitLab, and returns the address that the browser ends at.
func (e *env) login(t *testing.T, page, person string) *url.URL {
	t.Helper()
	end, err := gitlabsim.Login(t.Context(), e.gitlab.Client(), page, person, person+"-password")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(end)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// pageRuns runs what docs/kubectl-gitlab.md shows: each line behind a prompt, whose answer is what stands below it, but for
// addresses and times.
func pageRuns(t *testing.T, l *laptop) {
	git(t, l, l.env.gitlab.URL()+"/haw/world.git")
	same := strings.NewReplacer(
		l.cluster.URL(), "https://icc.example.com:6443", l.env.gitlab.URL(), "https://gitlab.example.com", l.config, "~/.kube/config", "2099-12-31", "2027-01-31",
	)
	times := regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d UTC, (in \d+ \w+|\d+ \w+ ago)`)
	days := regexp.MustCompile(`good until \d{4}-\d\d-\d\d`)
	plain := func(text string) string {
		text = days.ReplaceAllString(times.ReplaceAllString(text, "TIME"), "good until DAY")
		lines := strings.Split(text, "\n")
		for i := range lines {
			lines[i] = strings.Join(strings.Fields(lines[i]), " ") // the widths of columns differ with the addresses
		}
		return strings.TrimSpace(strings.Join(lines, "\n"))
	}
	blocks := regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(read(t, "../../docs/kubectl-gitlab.md"), -1)
	shown := 0
	for _, b := range blocks {
		for _, part := range strings.Split("\n"+b[1], "\n$ ")[1:] {
			line, want, _ := strings.Cut(part, "\n")
			out, _ := l.command(t, "/bin/sh", "-c", line).CombinedOutput()
			if got := plain(same.Replace(string(out))); got != plain(want) {
				t.Errorf("$ %s\n%s\n\nthe page shows\n%s", line, got, plain(want))
			}
			shown++
		}
	}
	if shown < 8 {
		t.Errorf("the page shows %d commands", shown)
	}
}

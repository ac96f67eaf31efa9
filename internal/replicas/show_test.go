package replicas_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// line is what the log says about a change.
type line struct {
	Time, Level, Msg, Action, Kind, Namespace, Name, Source, Role, Why, Cause string
	Added, Removed                                                            []string
}

// changes returns the changes that the log of a replica tells. Every line has to be JSON.
func (r *replica) changes() []line {
	r.w.t.Helper()
	var out []line
	for text := range strings.Lines(r.log.String()) {
		if !strings.HasSuffix(text, "\n") {
			break // being written
		}
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			r.w.t.Errorf("a line of the log is not JSON: %v: %s", err, text)
		}
		if l.Msg == "change applied" {
			out = append(out, l)
		}
	}
	return out
}

// TestServeTellsWhatItDoes: the log, the metrics, status and history of a real process, after a right was given and
// one taken by hooks, and something was put back.
func TestServeTellsWhatItDoes(t *testing.T) {
	w := newWorld(t)
	r := w.start("teller", time.Minute)
	r.leads(30 * time.Second)
	w.sendHooks(r)
	w.eventually("the first round", 30*time.Second, func() bool { return w.has("gitlab-view", "bob") && w.has("gitlab-edit", "alice") })
	w.set("carol", gitlabsim.Developer)
	w.eventually("carol's right", 10*time.Second, func() bool { return w.has("gitlab-view", "carol") })
	w.remove("bob")
	w.eventually("bob's right is gone", 10*time.Second, func() bool { return !w.has("gitlab-view", "bob") })
	if err := w.admin.RbacV1().RoleBindings("haw-world").Delete(t.Context(), "gitlab-edit", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the binding is back", 10*time.Second, func() bool { return w.has("gitlab-edit", "alice") })

	name := func(who string) string { return fmt.Sprintf("gitlab:%d (%s)", w.user(who), who) }
	source := fmt.Sprintf("project/%d", w.project)
	for _, want := range []struct{ added, removed, role, cause string }{
		{name("alice"), "", "edit", "start"},
		{name("bob"), "", "view", "start"},
		{name("carol"), "", "view", "hook user_add_to_team"},
		{"", name("bob"), "view", "hook user_remove_from_team"},
		{name("alice"), "", "edit", "drift"},
	} {
		n := 0
		w.eventually(fmt.Sprintf("a line about %+v", want), 5*time.Second, func() bool {
			n = 0
			for _, l := range r.changes() {
				if l.Namespace == "haw-world" && l.Kind == "RoleBinding" && l.Role == want.role && l.Cause == want.cause && l.Source == source &&
					l.Level == "INFO" && l.Time != "" && strings.Contains(l.Why, "haw/world") &&
					(want.added == "" || slices.Contains(l.Added, want.added)) && (want.removed == "" || slices.Contains(l.Removed, want.removed)) {
					n++
				}
			}
			return n > 0
		})
		if n != 1 {
			t.Errorf("%d lines about %+v, want one", n, want)
		}
	}
	for _, l := range r.changes() {
		if l.Cause == "" || l.Why == "" || l.Action == "" || l.Source == "" {
			t.Errorf("a change without its cause: %+v", l)
		}
	}

	cfg, err := config.Load(filepath.Join(w.dir, "teller.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var history string
	w.eventually("the history", 15*time.Second, func() bool {
		var b bytes.Buffer
		if err := app.History(t.Context(), cfg, app.HistoryView{Namespace: "haw-world"}, &b); err != nil {
			t.Fatal(err)
		}
		history = b.String()
		return strings.Contains(history, "[drift;")
	})
	for _, want := range []string{
		`(?m)^\S+Z  \+ gitlab:\d+ \(bob\)  view  \[start; Developer in haw/world, direct member\]$`,
		`(?m)^\S+Z  \+ gitlab:\d+ \(carol\)  view  \[hook user_add_to_team; Developer in haw/world, direct member\]$`,
		`(?m)^\S+Z  - gitlab:\d+ \(bob\)  view  \[hook user_remove_from_team; was Developer in haw/world, direct member; that is gone\]$`,
		`(?m)^\S+Z  - gitlab:\d+ \(alice\)  edit  \(found\)  \[drift; it was gone: somebody else took it, or it was not recorded\]$`, `(?m)^\S+Z  \+ gitlab:\d+ \(alice\)  edit  \[drift; `,
	} {
		if !regexp.MustCompile(want).MatchString(history) {
			t.Errorf("the history lacks %s", want)
		}
	}

	var status string
	defer func() {
		if t.Failed() {
			t.Logf("status:\n%s", status)
		}
	}()
	w.eventually("the status of the last round", 30*time.Second, func() bool {
		var b bytes.Buffer
		if err := app.Status(t.Context(), cfg, &b); err != nil {
			t.Fatal(err)
		}
		status = b.String()
		return strings.Contains(status, "hook user_remove_from_team") && strings.Contains(status, "_team, from ") // the last two are answered in any order
	})
	for _, want := range []string{
		`^enforce · last login never · last hook \d+ s ago · GitLab read \d+ s ago · \d+ findings?\n`, `(?m)^last login +never$`,
		`(?m)^last hook +\d+ s ago \(user_(add_to|remove_from)_team, from 127\.0\.0\.1\)$`,
		`(?m)^leader +\S+`, `(?m)^mode +enforce$`,
		`(?m)^last round +hook user_remove_from_team \(partial, \d+ namespaces looked at\): \d+ planned, \d+ applied, 0 failed, \S+, at \S+Z$`,
		`(?m)^GitLab read +\d+s ago: .*projects 1`,
		`(?m)^at most old +accounts \S+, everything \S+, present accounts \S+ \(when written, \S+ ago\)$`,
		`(?m)^held changes +0$`,
		`(?m)^hooks +[1-9]\d* dealt with, from receipt to applied \S+ \(median of the last 100\), slowest \S+$`,
		`(?m)^requests +.*\w \d+`, `(?m)^of the limits +`, `(?m)^findings +`,
	} {
		if !regexp.MustCompile(want).MatchString(status) {
			t.Errorf("the status lacks %s", want)
		}
	}

	res, err := http.Get("http://" + r.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`leader 1`, `last_good_round_timestamp_seconds [1-9]`, `round_seconds \d`, `planned_changes \d`, `rounds_total\{read="full",result="ok"\} [1-9]`,
		`rounds_total\{read="partial",result="ok"\} [1-9]`, `snapshot_age_seconds \d`, `staleness_seconds\{of="everything"\} \d`,
		`staleness_seconds\{of="accounts"\} \d`, `staleness_seconds\{of="present_accounts"\} \d`, `held_changes 0`, `drift_restored_total [1-9]`,
		`gitlab_requests_total\{kind="\w+"\} [1-9]`, `gitlab_budget_share\{kind="\w+"\} \d`, `hook_to_applied_seconds_count [1-9]`,
	} {
		if !regexp.MustCompile(`(?m)^gl_k8s_integrator_` + want).Match(body) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	// What is changed in the last second is in the history too, and what a round by hand changes.
	for range 3 { // so that the last ones wait for the pause between two writes to be over
		if _, err := w.admin.RbacV1().RoleBindings("haw-world").Patch(t.Context(), "gitlab-edit", types.MergePatchType, []byte(`{"subjects":null}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		w.eventually("the subjects are back", 10*time.Second, func() bool { return w.has("gitlab-edit", "alice") })
	}
	r.signal(syscall.SIGTERM)
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	w.remove("carol")
	if err := app.Sync(t.Context(), cfg, slog.New(slog.DiscardHandler), io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
	var b bytes.Buffer
	if err := app.History(t.Context(), cfg, app.HistoryView{Namespace: "haw-world"}, &b); err != nil {
		t.Fatal(err)
	}
	if history = b.String(); strings.Count(history, "edit  [drift; ") != 4 || !regexp.MustCompile(`- gitlab:\d+ \(carol\)  view  \[command; `).MatchString(history) {
		t.Error("the history lacks the last changes before the end, or those made by hand")
	}
	if t.Failed() {
		t.Logf("history:\n%s\nstatus:\n%s\nmetrics:\n%s", history, status, body)
	}
}

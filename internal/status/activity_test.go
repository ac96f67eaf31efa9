package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

var day = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// TestWatchesAreJoined: of what several replicas saw the last counts, whoever writes first; the document stays; the first news is
// written at once and further ones after a while; and that nothing ever came is written, too.
func TestWatchesAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: deploy.Namespace, Name: store.NameStatus}, Data: map[string]string{documentKey: `{"mode":"enforce"}`}})
		writes := func() (n int) {
			for _, a := range kube.Actions() {
				if a.GetVerb() == "patch" {
					n++
				}
			}
			return n
		}
		stored := func() *Activity {
			t.Helper()
			s, err := Read(t.Context(), kube)
			if err != nil || s.Mode != "enforce" {
				t.Fatal(s, err)
			}
			return s.Activity
		}
		if a := stored(); a != nil {
			t.Errorf("by an older version: %+v", a)
		}
		start := time.Now()
		one, other := NewWatch(kube, time.Now, slog.New(slog.DiscardHandler)), NewWatch(kube, time.Now, slog.New(slog.DiscardHandler))
		go one.Run(t.Context())
		go other.Run(t.Context())
		synctest.Wait()
		before := writes() // of both, if they began at the same time
		if a := stored(); a == nil || *a != (Activity{}) || before < 1 || before > 2 {
			t.Errorf("nothing came: %+v, %d writes", a, before)
		}
		time.Sleep(time.Minute)
		one.Login("user")
		synctest.Wait()
		time.Sleep(2 * time.Second)
		other.Hook("user_add_to_team", "10.0.0.7")
		other.Refuse("no_proof", "10.0.0.8")
		one.Login("ci")
		synctest.Wait()
		if a := stored(); a.Login.What != "user" || a.Hook.What != "user_add_to_team" {
			t.Errorf("at once: %+v", a)
		}
		time.Sleep(activityEvery)
		synctest.Wait()
		a, more := stored(), writes()-before // the refusal may be written together with the hook
		if a.Login.What != "ci" || a.Hook.From != "10.0.0.7" || a.Refused.What != "no_proof" || more < 3 || more > 4 {
			t.Errorf("a while later: %+v, %d writes", a, more)
		}
		if got := a.Login.At.Sub(start); got != time.Minute+2*time.Second {
			t.Errorf("the login was %s after the start", got)
		}
		fresh := NewWatch(kube, time.Now, slog.New(slog.DiscardHandler))
		go fresh.Run(t.Context())
		synctest.Wait()
		if fresh.Last().Login.What != "ci" {
			t.Errorf("after a restart: %+v", fresh.Last())
		}
	})
}

// TestOneLineSaysIt: the first line of `status`, and its form for programs.
func TestOneLineSaysIt(t *testing.T) {
	leads := Leader{Holder: "a", Renewed: day.Add(-time.Second)}
	working := document{Mode: "enforce", Read: day.Add(-90 * time.Second)}
	seen := Activity{Login: Seen{At: day.Add(-4 * time.Second), What: "user"}}
	for _, tt := range []struct {
		s    shown
		want string
	}{
		{shown{Leads: leads, Document: working, Activity: seen}, "enforce · last login 4 s ago · last hook never · GitLab read 1 min ago · 0 findings"},
		{shown{Leads: leads, Document: document{Mode: "plan", Held: 3, Findings: map[string]int{"fence": 1}}, Activity: Activity{Hook: Seen{At: day.Add(-26 * time.Hour)}}}, "plan · last login never · last hook 26 h 0 min ago · GitLab read never · 3 held · 1 finding"},
		{shown{Leads: leads, Document: document{Mode: "enforce", Failing: "x", NoLogins: true, NoHooks: true, Read: day.AddDate(0, 0, -3)}}, "FAILING · kube-apiserver judges logins · no hooks · GitLab read 3 days ago · 0 findings"},
		{shown{Leads: Leader{Holder: "a", Renewed: day.Add(-time.Hour)}, Document: working}, "NOBODY LEADS · last login never · last hook never · GitLab read 1 min ago · 0 findings"},
		{shown{Document: working}, "NOBODY LEADS · last login never · last hook never · GitLab read 1 min ago · 0 findings"},
	} {
		if got := tt.s.summary(day); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
	s := shown{Leads: leads, Document: working, Activity: seen}
	s.Activity.Refused = Seen{At: day.Add(-time.Hour), What: "no_proof", From: "10.0.0.8"}
	s.Summary = s.summary(day)
	var out bytes.Buffer
	s.print(&out, day)
	for _, want := range []string{"enforce · last login 4 s ago", "last login       4 s ago (user)\n", "last hook        never\n", "hook refused     1 h 0 min ago (no_proof, from 10.0.0.8)\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]any
	if err := json.Unmarshal(data, &back); err != nil || back["summary"] != s.Summary {
		t.Errorf("%v: %s", err, data)
	}
	for _, key := range []string{"leads", "activity", "status"} {
		if fmt.Sprintf("%T", back[key]) != "map[string]interface {}" {
			t.Errorf("%s is missing in %s", key, data)
		}
	}
}

package past

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
)

// TestOwnChangesNameNoAdministrator: of a change that was approved, people hear that it was, and not by whom. What is no right of
// theirs is left out.
func TestOwnChangesNameNoAdministrator(t *testing.T) {
	at := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	got := own([]audit.Entry{
		{At: at, Namespace: "haw-world", What: audit.Gained, Role: "edit", Cause: "hook", Why: "Maintainer in haw/world, direct member"},
		{At: at, Namespace: "haw-world", What: audit.Lost, Role: "edit", Cause: "full", Why: "project/42 haw/world, approved by gitlab:7", ApprovedBy: "gitlab:7"},
		{At: at, Namespace: "haw-world", What: audit.Lost, Role: "view", ApprovedBy: "gitlab:7"},
		{At: at, Namespace: "haw-world", What: audit.Lost, Role: "view", Why: "approved by gitlab:7", ApprovedBy: "gitlab:7"},
		{At: at, Namespace: "haw-world", What: audit.Created, Object: "NetworkPolicy haw-world/deny-all"},
	})
	var lines []string
	for _, c := range got {
		lines = append(lines, fmt.Sprint(strings.Join([]string{c.What, c.Role, c.Namespace, c.Cause, c.Why, c.Placeless}, "|"), c.Approved))
	}
	want := []string{
		"gained|edit|haw-world|hook|Maintainer in haw/world, direct member|Maintainerfalse", "lost|edit|haw-world|full|project/42 haw/world|true",
		"lost|view|haw-world|unknown||true", "lost|view|haw-world|unknown||true",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("%q", lines)
	}
}

// TestOthersReadTheHistory: while kube-apiserver hangs, one person waits for the history; all others are told within a second that they
// shall try again.
func TestOthersReadTheHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		answer := make(chan struct{})
		kube.PrependReactor("get", "secrets", func(kubetesting.Action) (bool, runtime.Object, error) {
			<-answer
			return false, nil, nil
		})
		changes := Changes(audit.NewReader(kube))
		var first sync.WaitGroup
		first.Go(func() {
			if _, err := changes(t.Context(), 1, time.Time{}); err != nil {
				t.Errorf("who came first: %v", err)
			}
		})
		synctest.Wait()
		begun := time.Now()
		if _, err := changes(t.Context(), 2, time.Time{}); !errors.Is(err, people.ErrHistoryBusy) || time.Since(begun) > time.Second {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		close(answer)
		first.Wait()
	})
}

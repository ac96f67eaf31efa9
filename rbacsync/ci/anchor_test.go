package ci_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// shown is a token that was written into a Secret, where everybody sees it who watches.
type shown struct {
	token string
	at    time.Time
}

// watchAll notes every token that is ever written into a Secret.
func (b *bench) watchAll(seen *[]shown) {
	note := func(a ktesting.Action) (bool, runtime.Object, error) {
		if s, ok := a.(ktesting.CreateAction).GetObject().(*corev1.Secret); ok && len(s.Data["token"]) > 0 {
			*seen = append(*seen, shown{string(s.Data["token"]), b.now})
		}
		return false, nil, nil
	}
	b.kube.PrependReactor("create", "secrets", note)
	b.kube.PrependReactor("update", "secrets", note)
}

// TestNobodyWhoLeftComesByAToken is the law: people come and go, requests fail, the process ends and starts again, tokens
// are rotated. Whoever once could read the Secret watches it from then on, for an hour after they left or for ever. No token
// that they see afterwards works, nor one that they saw before; what GitLab has was in no Secret, and works.
func TestNobodyWhoLeftComesByAToken(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			hold := time.Duration(seed%2) * time.Hour // 0: for ever
			b := newBench(t)
			b.Withhold = hold
			var seen []shown
			failing := false
			for _, resource := range []string{"secrets", "serviceaccounts"} {
				b.kube.PrependReactor("*", resource, func(ktesting.Action) (bool, runtime.Object, error) {
					if failing && rnd.IntN(5) == 0 {
						return true, nil, errors.New("the API server is away")
					}
					return false, nil, nil
				})
			}
			b.watchAll(&seen)
			readers := []int64{2, 3}
			left := map[int64]time.Time{} // when somebody lost the right
			for range 30 {
				n := project("haw-world", 42, rbacsync.DeliverVariables)
				before := slices.Clone(readers)
				switch rnd.IntN(4) {
				case 0:
					if id := int64(2 + rnd.IntN(5)); !slices.Contains(readers, id) {
						readers = append(readers, id)
						slices.Sort(readers)
						delete(left, id)
					}
				case 1:
					if len(readers) > 0 {
						i := rnd.IntN(len(readers))
						left[readers[i]] = b.now
						readers = slices.Delete(slices.Clone(readers), i, i+1)
					}
				case 2:
					b.now = b.now.Add(time.Duration(rnd.IntN(9)) * 10 * time.Minute)
				case 3:
					b.restart()
					b.Withhold = hold
				}
				n.Readers = slices.Clone(readers)
				for _, id := range before {
					if !slices.Contains(readers, id) {
						n.Lost = append(n.Lost, id)
					}
				}
				list := []ci.Namespace{n}
				failing = rnd.IntN(2) == 0
				if rnd.IntN(2) == 0 {
					b.DestroyLost(t.Context(), list)
				}
				b.Provision(t.Context(), list)
				failing = false
				for tries := 0; ; tries++ {
					b.now = b.now.Add(7 * time.Minute)
					if r := b.Provision(t.Context(), list); len(r.Findings) == 0 {
						break
					} else if tries > 20 {
						t.Fatalf("it comes to no end: %v", r.Findings)
					}
				}
				for _, s := range seen {
					for id, at := range left {
						watched := s.at.Before(at) || hold == 0 || s.at.Before(at.Add(hold))
						if watched && b.works(t, "haw-world", s.token) {
							t.Fatalf("user %d, who left at %s, knows a token of %s that works at %s", id, at, s.at, b.now)
						}
					}
					if s.token == b.token(42) {
						t.Fatal("what GitLab has was in a Secret")
					}
				}
				if !b.works(t, "haw-world", b.token(42)) {
					t.Fatal("what GitLab has does not work")
				}
			}
		})
	}
}

// TestTokenComesBack: after the time that the configuration says, or when an administrator says so.
func TestTokenComesBack(t *testing.T) {
	t.Parallel()
	lost := project("haw-world", 42, rbacsync.DeliverVariables)
	lost.Lost = []int64{9}
	tests := map[string]struct {
		hold    time.Duration
		allowed bool
		after   time.Duration
		want    bool
	}{
		"never by itself":           {0, false, 90 * 24 * time.Hour, false},
		"an administrator allows":   {0, true, time.Minute, true},
		"before the time is over":   {time.Hour, false, 59 * time.Minute, false},
		"after the time":            {time.Hour, false, 61 * time.Minute, true},
		"a longer time, and sooner": {48 * time.Hour, true, time.Minute, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.Withhold = tt.hold
			b.pass(t, world)
			b.pass(t, lost)
			b.restart()
			b.Withhold = tt.hold
			if tt.allowed {
				for _, name := range []string{kubename.CISecret, kubename.CIAnchor} {
					patch := []byte(`{"metadata":{"annotations":{"` + kubename.AnnotationWithheldSince + `":null}}}`)
					if _, err := b.kube.CoreV1().Secrets("haw-world").Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			b.now = b.now.Add(tt.after)
			b.pass(t, world)
			token := string(b.secret(t, "haw-world").Data["token"])
			if got := token != "" && b.works(t, "haw-world", token); got != tt.want {
				t.Errorf("a token in the Secret: %t", got)
			}
		})
	}
}

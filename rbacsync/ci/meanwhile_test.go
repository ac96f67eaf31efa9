package ci_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// meddler does something to the Secrets of haw-world at one moment of a look at it, and the watch tells of all that happens at
// once.
type meddler struct {
	*variables // GitLab is a moment, too
	b          *bench
	meddle     func(m *meddler, inGitLab bool)
	at, calls  int
	made       int
	acted      bool
}

var secretsOf = corev1.SchemeGroupVersion.WithResource("secrets")

func (m *meddler) moment(inGitLab bool) {
	if m.calls++; m.calls == m.at {
		m.meddle(m, inGitLab)
	}
}

func (m *meddler) Ensure(ctx context.Context, project int64, scope string, vars []ci.Variable, known *ci.ProjectVariables, claim ci.Claim) (int, error) {
	m.moment(true)
	return m.variables.Ensure(ctx, project, scope, vars, known, claim)
}

func (m *meddler) get(name string) *corev1.Secret {
	o, err := m.b.kube.Tracker().Get(secretsOf, "haw-world", name)
	if err != nil {
		return nil
	}
	s, _ := o.(*corev1.Secret)
	return s.DeepCopy()
}

func (m *meddler) remove(name string) {
	if s := m.get(name); s != nil {
		m.acted = m.b.kube.Tracker().Delete(secretsOf, "haw-world", name) == nil
		m.b.Saw(s, true)
	}
}

// react is the API server for Secrets.
func (m *meddler) react(a ktesting.Action) (bool, runtime.Object, error) {
	m.moment(false)
	var gone *corev1.Secret
	switch a := a.(type) {
	case ktesting.DeleteAction:
		gone = m.get(a.GetName())
	case ktesting.UpdateAction: // and creations, which have the same methods
		s, _ := a.GetObject().(*corev1.Secret)
		if a.GetVerb() == "create" {
			m.made++
			s.UID = types.UID(fmt.Sprint("made-", m.made))
		} else if now := m.get(s.Name); now != nil && now.ResourceVersion != s.ResourceVersion {
			return true, nil, errors.New("conflict")
		}
	}
	handled, o, err := ktesting.ObjectReaction(m.b.kube.Tracker())(a)
	if s, ok := o.(*corev1.Secret); ok && err == nil && a.GetVerb() != "get" {
		m.b.Saw(s, false)
	}
	if gone != nil && err == nil {
		m.b.Saw(gone, true)
	}
	return handled, o, err
}

// TestWhatHappensDuringALookIsNotLost: whatever somebody does to the Secrets, at whatever moment of our own look at them: within
// seconds all is in order again, and not only when all Secrets are looked at again.
func TestWhatHappensDuringALookIsNotLost(t *testing.T) {
	t.Parallel()
	lost := world
	lost.Lost = []int64{9}
	for start, begin := range map[string]func(b *bench) ci.Namespace{
		"first delivery": func(*bench) ci.Namespace { return world },
		"another environment": func(b *bench) ci.Namespace {
			b.Provision(t.Context(), []ci.Namespace{world})
			b.Scope, b.now = "production", b.now.Add(10*time.Minute)
			return world
		},
		"a loss": func(b *bench) ci.Namespace { b.Provision(t.Context(), []ci.Namespace{world}); return lost },
	} {
		for what, meddle := range map[string]func(m *meddler, inGitLab bool){
			"the Secret is deleted": func(m *meddler, _ bool) { m.remove(kubename.CISecret) },
			"the anchor is deleted": func(m *meddler, _ bool) { m.remove(kubename.CIAnchor) },
			"the anchor is deleted while nobody watches": func(m *meddler, _ bool) {
				if m.get(kubename.CIAnchor) != nil {
					m.acted = m.b.kube.Tracker().Delete(secretsOf, "haw-world", kubename.CIAnchor) == nil
					m.b.Missed()
				}
			},
			"the token is changed": func(m *meddler, _ bool) {
				if s := m.get(kubename.CISecret); s != nil && len(s.Data["token"]) > 0 {
					s.Data["token"], s.ResourceVersion = []byte("somebody else's"), "changed"
					m.acted = m.b.kube.Tracker().Update(secretsOf, s, s.Namespace) == nil
					m.b.Saw(s, false)
				}
			},
			"another loss, which is dealt with beside it": func(m *meddler, inGitLab bool) {
				if m.acted = inGitLab; inGitLab { // the fake cluster lets nobody in while it answers
					m.b.DestroyLost(t.Context(), []ci.Namespace{lost})
				}
			},
		} {
			acted := 0
			for at := 1; ; at++ {
				b := newBench(t)
				n := begin(b)
				m := &meddler{variables: b.gitlab, b: b, meddle: meddle, at: at}
				b.Variables = m
				b.kube.PrependReactor("*", "secrets", m.react)
				r := b.pass(t, n)
				if m.calls < at {
					break
				}
				if m.acted {
					acted++
				}
				n.Lost = nil
				for range 5 {
					if r.Next.After(b.now.Add(5 * time.Second)) {
						break
					}
					b.now = r.Next
					r = b.pass(t, n)
				}
				m.at = 0
				kept := m.get(kubename.CISecret)
				if !b.works(t, "haw-world", b.token(42)) || kept == nil || len(kept.Data["token"]) > 0 && !b.works(t, "haw-world", string(kept.Data["token"])) {
					t.Errorf("%s, %s at moment %d: not in order, and the next look is due in %s", start, what, at, r.Next.Sub(b.now))
				}
			}
			if acted == 0 {
				t.Errorf("%s: at no moment could it be that %s", start, what)
			}
		}
	}
}

// TestWhoIsBackAtOnceHasJobsThatWork: a token is destroyed because somebody lost the right to read it, and before the next look at
// the namespace they have it again: so all is as it was when it was looked at last, but for the token.
func TestWhoIsBackAtOnceHasJobsThatWork(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pass(t, world)
	old := b.token(42)
	lost := world
	lost.Lost = []int64{9}
	b.DestroyLost(t.Context(), []ci.Namespace{lost})
	if b.works(t, "haw-world", old) {
		t.Fatal("the token was not destroyed: this shows nothing")
	}
	b.pass(t, world)
	if !b.works(t, "haw-world", b.token(42)) {
		t.Error("jobs have no token that works")
	}
}

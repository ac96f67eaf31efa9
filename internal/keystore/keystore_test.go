package keystore

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

// TestKeysSurviveARestart: GitLab's keys are kept in the Secret and taken up by the next process, which starts while
// GitLab is away and kube-apiserver not there yet.
func TestKeysSurviveARestart(t *testing.T) {
	gitlab := authntest.New(t)
	auth := func() *authn.GitLab {
		a, err := authn.New(authn.Config{Issuer: gitlab.URL, ClientIDs: []string{"app"}, HTTPClient: gitlab.Client()})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	kube := fake.NewClientset()
	run := func(a *authn.GitLab, origin string, until func() bool) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		store := &Store{kube: kube, auth: a, origin: origin, log: slog.New(slog.DiscardHandler), look: time.Millisecond, save: time.Hour}
		go func() { defer close(ended); store.Run(ctx) }()
		for n := 0; !until() && n < 2000; n++ {
			time.Sleep(2 * time.Millisecond)
		}
		cancel()
		<-ended
		if !until() {
			t.Error("did not happen")
		}
	}
	secret := func() *corev1.Secret {
		s, err := kube.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), Secret, metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return s
	}
	first := auth()
	if _, err := first.Authenticate(t.Context(), gitlab.UserToken(42, "app", nil)); err != nil {
		t.Fatal(err)
	}
	run(first, gitlab.URL, func() bool { return secret() != nil })
	if s := secret(); s.Type != corev1.SecretTypeOpaque || string(s.Data[fieldOrigin]) != gitlab.URL {
		t.Errorf("got %v", s)
	}

	gitlab.SetDown(true)
	away := 3
	kube.PrependReactor("get", "secrets", func(ktesting.Action) (bool, runtime.Object, error) {
		away--
		return away > 0, nil, errors.New("kube-apiserver is away")
	})
	second := auth()
	run(second, gitlab.URL, func() bool { return second.Ready() == nil })
	if id, err := second.Authenticate(t.Context(), gitlab.UserToken(42, "app", nil)); err != nil || id.Username != "gitlab:42" {
		t.Errorf("after the restart: %v, %v", id, err)
	}

	other := auth()
	seen := 0
	run(other, "https://other.example", func() bool { seen++; return seen > 10 })
	if other.Ready() == nil {
		t.Error("took keys of another GitLab")
	}
	if string(secret().Data[fieldOrigin]) != gitlab.URL {
		t.Error("wrote though no keys are known")
	}
}

// TestKeysArePutBack: whatever is done to the Secret with GitLab's keys, they are in it again; but later keys of another
// replica stay.
func TestKeysArePutBack(t *testing.T) {
	gitlab := authntest.New(t)
	a, err := authn.New(authn.Config{Issuer: gitlab.URL, ClientIDs: []string{"app"}, HTTPClient: gitlab.Client()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(t.Context(), gitlab.UserToken(42, "app", nil)); err != nil {
		t.Fatal(err)
	}
	keys, fetched := a.Keys()
	later, future := fetched.Add(time.Second).UTC().Format(time.RFC3339Nano), fetched.Add(time.Hour).UTC().Format(time.RFC3339Nano)
	kube := fake.NewClientset()
	secrets := kube.CoreV1().Secrets(deploy.Namespace)
	is := func(want string) bool {
		for range 2000 {
			if s, err := secrets.Get(t.Context(), Secret, metav1.GetOptions{}); err == nil && string(s.Data[FieldJWKS]) == want && string(s.Data[fieldOrigin]) == gitlab.URL {
				return true
			}
			time.Sleep(2 * time.Millisecond)
		}
		return false
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	store := &Store{kube: kube, auth: a, origin: gitlab.URL, log: slog.New(slog.DiscardHandler), look: time.Millisecond, save: time.Hour, check: time.Millisecond}
	go func() { defer close(ended); store.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if !is(string(keys)) {
		t.Fatal("not written")
	}
	for name, fields := range map[string]map[string]string{
		"deleted":              nil,
		"emptied":              {FieldJWKS: "", fieldFetched: "", fieldOrigin: ""},
		"other keys":           {FieldJWKS: `{"keys":[]}`},
		"not JSON, later":      {FieldJWKS: "{", fieldFetched: later},
		"of another GitLab":    {fieldOrigin: "https://other.example.com"},
		"other, in the future": {FieldJWKS: `{"keys":[]}`, fieldFetched: future},
	} {
		s, err := secrets.Get(t.Context(), Secret, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range fields {
			s.Data[k] = []byte(v)
		}
		if fields == nil {
			err = secrets.Delete(t.Context(), Secret, metav1.DeleteOptions{})
		} else {
			_, err = secrets.Update(t.Context(), s, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		if !is(string(keys)) {
			t.Errorf("%s: not put back", name)
		}
	}
	s, err := secrets.Get(t.Context(), Secret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Data[FieldJWKS], s.Data[fieldFetched] = []byte(`{"keys":[]}`), []byte(later)
	if _, err := secrets.Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if !is(`{"keys":[]}`) {
		t.Error("later keys of another replica were overwritten")
	}
}

package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz/sarwebhook"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/controlplane"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/httpserver"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/metrics"
)

func TestOneIntegratorAloneIsAFinding(t *testing.T) {
	for _, c := range []struct {
		e    config.Explain
		want int
	}{{config.Explain{Replicas: 1}, 1}, {config.Explain{Replicas: 2}, 0}, {config.Explain{Replicas: 1, Disabled: true}, 0}} {
		if got := explainFindings(c.e); len(got) != c.want {
			t.Errorf("%+v: %v", c.e, got)
		}
	}
}

// TestDisabledExplanationsAreNotServed: then /authorize is nothing.
func TestDisabledExplanationsAreNotServed(t *testing.T) {
	view := func() (authz.View, bool) { return authz.View{}, false }
	for disabled, want := range map[bool]int{false: http.StatusMethodNotAllowed, true: http.StatusNotFound} {
		cfg := &config.Config{Listeners: config.Listeners{Webhooks: config.Listener{MaxInFlight: 1}}, Authz: config.Authz{Explain: config.Explain{Disabled: disabled}}}
		w := httptest.NewRecorder()
		ports{metrics: metrics.New()}.webhooks(cfg.Listeners.Webhooks, httpserver.Route{Path: "/authorize", Handler: explainHandler(cfg, view, nil)}).Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/authorize", nil))
		if w.Code != want {
			t.Errorf("disabled %v: %d, want %d", disabled, w.Code, want)
		}
	}
}

// TestRefusalsWhileTheExplainingWebhookIsAway documents what kube-apiserver does, as docs/install.md says it: what is allowed
// stays allowed, and a refusal is 500 until the webhook is back, in spite of failurePolicy NoOpinion.
func TestRefusalsWhileTheExplainingWebhookIsAway(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a control plane")
	}
	gitlab := authntest.New(t)
	gitlab.Now = func() time.Time { return time.Now().Add(-time.Second) }
	gl, err := authn.New(authn.Config{Issuer: gitlab.URL, ClientIDs: []string{"kubelogin"}, HTTPClient: gitlab.Client()})
	if err != nil {
		t.Fatal(err)
	}
	var away atomic.Bool
	explains := sarwebhook.Handler(func() (authz.View, bool) { return authz.View{}, false }, "", time.Now, slog.New(slog.DiscardHandler))
	count := &asked{codes: map[authn.Code]int{}, versions: map[string]int{}}
	cluster := startWithWebhook(t, controlplane.Options{AuthnVersion: "v1", AuthzWebhook: &controlplane.Webhook{}}, httpserver.Mux(
		httpserver.Route{Path: "/authenticate", Handler: authn.Handler(gl, nil, count.observe)},
		httpserver.Route{Path: "/authorize", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if away.Load() {
				panic(http.ErrAbortHandler) // the connection breaks
			}
			explains.ServeHTTP(w, r)
		})},
	), count)
	token := gitlab.UserToken(42, "kubelogin", nil)
	refusal := func(ctx context.Context, namespace string) error { // each namespace once: answers are remembered
		_, err := clientWith(t, cluster, token).CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		return err
	}
	if err := refusal(t.Context(), "there"); !apierrors.IsForbidden(err) {
		t.Errorf("while it is there: %v, want 403", err)
	}
	away.Store(true)
	var status *apierrors.StatusError
	if err := refusal(t.Context(), "away"); !errors.As(err, &status) || status.ErrStatus.Code != http.StatusInternalServerError || !strings.Contains(err.Error(), "/authorize") {
		t.Errorf("while it is away: %v, want 500 with the address of the webhook: correct docs/install.md if this has changed", err)
	}
	if who, err := whoAmI(t, cluster, token); err != nil || who.Username != "gitlab:42" {
		t.Errorf("what is allowed, while it is away: %v, %v", who, err)
	}
	away.Store(false)
	if err := refusal(t.Context(), "back"); !apierrors.IsForbidden(err) {
		t.Errorf("when it is back: %v, want 403", err)
	}
}

package app

import (
	"io"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestEnginesHaveAllRules: what the configuration says of rights is in the options of each engine, and those of a single round are
// whole.
func TestEnginesHaveAllRules(t *testing.T) {
	s := newLooking(t, "authz: {reservedNames: [infra]}").r.s
	log := slog.New(slog.DiscardHandler)
	want, err := rules(s.cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []singleRound{
		{mode: syncer.ModePlan},
		{mode: syncer.ModePlan, recorded: true},
		{mode: syncer.ModeEnforce, written: func(syncer.Written) {}},
	} {
		o, err := oneRound(s.cfg, s.clients, r, log, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for i := range reflect.TypeFor[syncer.Options]().NumField() {
			if !reflect.ValueOf(want).Field(i).IsZero() {
				seen++
				if reflect.ValueOf(o).Field(i).IsZero() {
					t.Errorf("%+v: the options lack %s", r, reflect.TypeFor[syncer.Options]().Field(i).Name)
				}
			}
		}
		if seen < 6 {
			t.Errorf("only %d rules were found", seen)
		}
		if _, unseen := o.Reader.(*provenReader); unseen || o.Mode != r.mode || (o.Observe != nil) != r.recorded || (o.OnWritten != nil) != (r.written != nil) {
			t.Errorf("%+v: reader %T, mode %s, observe %t, written %t", r, o.Reader, o.Mode, o.Observe != nil, o.OnWritten != nil)
		}
	}
}

// TestTermsOf: they are those of this configuration, and what they were made from stays as it is.
func TestTermsOf(t *testing.T) {
	known := ci.Known{API: ci.Cluster{URL: "https://a"}}
	cfg := &config.Config{Cluster: config.Cluster{PublicURL: "https://b"}}
	now := time.Unix(1, 0)
	got := termsOf(cfg, store.Recorded{Cluster: "id", CA: true, Scope: "shown", Known: &known}, now)
	if got.Cluster != "id" || !got.CA || got.Shown != "shown" || !got.Now.Equal(now) || got.Known.API.URL != "https://b" || known.API.URL != "https://a" {
		t.Errorf("%+v, made from %+v", got, known)
	}
	if got := termsOf(cfg, store.Recorded{}, now); got.Known != nil {
		t.Errorf("nothing is known: %+v", got.Known)
	}
}

// TestWhatADoctorIsGiven: how the cluster and /metrics are asked is whole, or not there.
func TestWhatADoctorIsGiven(t *testing.T) {
	cfg := newLooking(t, "").r.s.cfg
	if a, err := newClusterAccess(cfg, ""); err != nil || a.client == nil || a.config == nil || a.own != nil || len(a.roles) == 0 {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := newClusterAccess(cfg, cfg.Cluster.Kubeconfig); err != nil || a.client == nil || a.own == nil {
		t.Errorf("an administrator's: %+v, %v", a, err)
	}
	if a, err := newClusterAccess(cfg, filepath.Join(t.TempDir(), "none")); err == nil || !reflect.DeepEqual(a, clusterAccess{}) {
		t.Errorf("no such file: %+v, %v", a, err)
	}
	for _, c := range []struct {
		listener config.MetricsListener
		named    []string
		want     []string
	}{
		{config.MetricsListener{Address: ":9090"}, nil, []string{"http://127.0.0.1:9090/metrics"}},
		{config.MetricsListener{Address: "10.0.0.1:9090", CertFile: "tls.crt"}, nil, []string{"https://10.0.0.1:9090/metrics"}},
		{config.MetricsListener{Address: ":9090"}, []string{"https://a/metrics"}, []string{"https://a/metrics"}},
		{config.MetricsListener{TokenFile: "token"}, nil, nil},
	} {
		a := newMetricsAccess(c.listener, c.named)
		if !slices.Equal(a.urls, c.want) || a.client == nil || (a.token != nil) != (c.listener.TokenFile != "") {
			t.Errorf("%+v, named %v: %+v", c.listener, c.named, a)
		}
	}
}

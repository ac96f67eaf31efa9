package ci_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// largest is the longest string that Linux passes to a program, with the byte that ends it.
const largest = 128 << 10

// TestLargeBundle: of a company's CA bundle jobs get what verifies the API server, and nothing else.
func TestLargeBundle(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	own := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	other, err := localcert.NewAuthority("other")
	if err != nil {
		t.Fatal(err)
	}
	large := own + strings.Repeat(string(other.PEM), 220<<10/len(other.PEM))
	small := own + string(other.PEM)
	for name, tt := range map[string]struct{ bundle, want string }{"large": {large, own}, "small": {small, small}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.Cluster.URL = server.URL
			b.CA = func() ([]byte, error) { return []byte(tt.bundle), nil }
			expect(t, b.pass(t, world), 1, 1)
			if got := b.gitlab.got[42]["ICC-K8s"]["KUBE_CA_PEM"].Value; got != tt.want {
				t.Errorf("jobs get %d bytes of CA, want %d", len(got), len(tt.want))
			}
			b.now = b.now.Add(10 * time.Minute)
			expect(t, b.pass(t, world), 0, 0)
		})
	}
	t.Run("the API server can't be reached after a while", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		server := httptest.NewTLSServer(http.NotFoundHandler())
		b.Cluster.URL = server.URL
		b.CA = func() ([]byte, error) { return []byte(large), nil }
		expect(t, b.pass(t, world), 1, 1)
		server.Close()
		b.now = b.now.Add(10 * time.Minute)
		expect(t, b.pass(t, world), 0, 0)
	})
	t.Run("never reached", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.Cluster = ci.Cluster{URL: "https://127.0.0.1:1", CA: []byte(large)}
		b.CA = func() ([]byte, error) { return []byte(large), nil }
		expect(t, b.pass(t, world), 1, 0, "ci_ca_too_large", "ci_delivery_failed")
		if b.gitlab.calls != 0 {
			t.Error("something was delivered")
		}
	})
}

// TestNoValueIsTooLargeForAJob in every mode, for every size: what is delivered fits, and what does not fit is refused
// before anything is written.
func TestNoValueIsTooLargeForAJob(t *testing.T) {
	t.Parallel()
	for _, mode := range []rbacsync.Delivery{rbacsync.DeliverVariables, rbacsync.DeliverIDToken, rbacsync.DeliverAgent, rbacsync.DeliverCertificate} {
		for _, size := range []int{1 << 10, 90 << 10, 97 << 10, largest - 14, largest - 12, 220 << 10} {
			t.Run(fmt.Sprintf("%s %d", mode, size), func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				b.Cluster.CA = []byte(strings.Repeat("x", size))
				agent := *b.Agent
				agent.CA = b.Cluster.CA
				b.Agent = &agent
				r := b.pass(t, project("haw-world", 42, mode))
				for _, v := range b.gitlab.got[42]["ICC-K8s"] {
					if len(v.Key)+len(v.Value)+2 > largest {
						t.Errorf("%s has %d bytes", v.Key, len(v.Value))
					}
				}
				fits := size <= 90<<10 || mode == rbacsync.DeliverCertificate && size <= largest-14
				if delivered := r.Delivered == 1; delivered != fits || fits != (len(r.Findings) == 0) {
					t.Fatalf("delivered %t, findings %v", delivered, r.Findings)
				}
				if !fits && (b.gitlab.calls > 0 || len(b.clusters.got) > 0 || !strings.Contains(r.Findings[0].Text, "caFile") && !strings.Contains(r.Findings[0].Text, "publicCAFile")) {
					t.Errorf("%d calls, findings %v", b.gitlab.calls, r.Findings)
				}
			})
		}
	}
}

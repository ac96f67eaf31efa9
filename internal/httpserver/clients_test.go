package httpserver

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"testing"
	"time"
)

// TestEndsOfClients: the first end counts of the certificates that clients showed last; a new one takes the place of the one with
// its subject, and many subjects take no memory.
func TestEndsOfClients(t *testing.T) {
	var c clients
	day := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	show := func(subject string, days int) {
		t.Helper()
		if err := c.note(tls.ConnectionState{PeerCertificates: []*x509.Certificate{{RawSubject: []byte(subject), NotAfter: day.AddDate(0, 0, days)}}}); err != nil {
			t.Error(err)
		}
	}
	want := func(days int) {
		t.Helper()
		if got := c.first(); !got.Equal(day.AddDate(0, 0, days)) {
			t.Errorf("%v, want day %d", got, days)
		}
	}
	if err := c.note(tls.ConnectionState{}); err != nil || !c.first().IsZero() {
		t.Errorf("nobody: %v, %v", c.first(), err)
	}
	show("a", 10)
	want(10)
	show("b", 5)
	want(5)
	show("b", 90)
	want(10)
	for i := range 10 * maxClients {
		show(fmt.Sprint("c", i), 20)
	}
	if len(c.ends) != maxClients {
		t.Errorf("%d subjects are kept", len(c.ends))
	}
	show("a", 80)
	want(20)
}

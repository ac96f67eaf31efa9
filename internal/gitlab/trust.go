package gitlab

import (
	"bytes"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// NewWatchingHTTPClient is NewHTTPClient with a CA that may change: ca is asked before each request and returns it in PEM. The
// connections of the CA before are left once they rest. While ca fails, or returns no certificate (a file that is being
// written), the last good CA stays in use, and a request that fails says so. The first CA must be good.
func NewWatchingHTTPClient(ca func() ([]byte, error), timeout time.Duration) (*http.Client, error) {
	t := &trust{ca: ca}
	if _, err := t.now(); err != nil {
		return nil, err
	}
	return &http.Client{Transport: t, Timeout: timeout}, nil
}

// trust is the transport of the present CA.
type trust struct {
	ca func() ([]byte, error)

	mu        sync.Mutex
	pem       []byte // of transport
	transport http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *trust) RoundTrip(req *http.Request) (*http.Response, error) {
	transport, unread := t.now()
	resp, err := transport.RoundTrip(req)
	if err != nil && unread != nil {
		return nil, fmt.Errorf("%w (with the CA from before, since the present one can't be used: %w)", err, unread)
	}
	return resp, err
}

// now returns the transport to use, nil if there never was a good CA, and why the present CA is not the one it trusts.
func (t *trust) now() (http.RoundTripper, error) {
	pem, err := t.ca()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil || t.transport != nil && bytes.Equal(pem, t.pem) {
		return t.transport, err
	}
	client, err := NewHTTPClient(pem, 0)
	if err != nil {
		return t.transport, err
	}
	t.idle()
	t.pem, t.transport = pem, client.Transport
	return t.transport, nil
}

// CloseIdleConnections is called by http.Client.
func (t *trust) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle()
}

func (t *trust) idle() {
	if of, ok := t.transport.(interface{ CloseIdleConnections() }); ok {
		of.CloseIdleConnections()
	}
}

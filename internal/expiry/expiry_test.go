package expiry_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
)

var day = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// certificate returns one that ends so many days after day, in PEM.
func certificate(t *testing.T, days int) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(int64(days)), NotBefore: day.AddDate(-1, 0, 0), NotAfter: day.AddDate(0, 0, days)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestEndOfCertificates: a chain ends with its first certificate, a bundle with its last, whatever else stands beside them.
func TestEndOfCertificates(t *testing.T) {
	ten, twenty, thirty := certificate(t, 10), certificate(t, 20), certificate(t, 30)
	key := []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
	broken := []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	at := func(days int) time.Time { return day.AddDate(0, 0, days) }
	for _, tt := range []struct {
		name          string
		text          []byte
		chain, bundle time.Time // zero: an error
	}{
		{"one", ten, at(10), at(10)},
		{"several", slices.Concat(twenty, ten, thirty), at(10), at(30)},
		{"with words and a key", slices.Concat([]byte("# a comment\n"), twenty, key, thirty), at(20), at(30)},
		{"with a broken one", slices.Concat(ten, broken, twenty), time.Time{}, at(20)},
		{"only a broken one", broken, time.Time{}, time.Time{}},
		{"a key", key, time.Time{}, time.Time{}},
		{"nothing", nil, time.Time{}, time.Time{}},
	} {
		for _, f := range []struct {
			name string
			of   func([]byte) (time.Time, error)
			want time.Time
		}{{"chain", expiry.OfChainPEM, tt.chain}, {"bundle", expiry.OfBundle, tt.bundle}} {
			if got, err := f.of(tt.text); !got.Equal(f.want) || (err != nil) != f.want.IsZero() {
				t.Errorf("%s as a %s: %v, %v; want %v", tt.name, f.name, got, err, f.want)
			}
		}
	}
}

// TestTokens: GitLab is asked at the start, each hour, again soon after an error, and within a minute after a token was replaced;
// what was known stays while it does not answer, and is not said of another token.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu     sync.Mutex // guards what follows
			token  = "a"
			end    = day
			fails  error
			asked  int
			tokens = expiry.NewTokens(slog.New(slog.DiscardHandler), expiry.Token{
				What: "gitlab.readTokenFile", Read: func() (string, error) { mu.Lock(); defer mu.Unlock(); return token, nil },
				Ask: func(context.Context) (time.Time, error) { mu.Lock(); defer mu.Unlock(); asked++; return end, fails },
			}, expiry.Token{
				What: "gitlab.writeTokenFile", Read: func() (string, error) { return "", errors.New("no such file") },
				Ask: func(context.Context) (time.Time, error) { t.Error("asked without a token"); return day, nil },
			})
		)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { tokens.Run(ctx); close(done) }()
		step := func(what string, wait time.Duration, questions int, want ...expiry.End) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if got := tokens.Ends(); !slices.Equal(got, want) || asked != questions {
				t.Errorf("%s: %v after %d questions, want %v after %d", what, got, asked, want, questions)
			}
		}
		known := expiry.End{What: "gitlab.readTokenFile", At: day}
		step("at the start", 0, 1, known)
		step("before the hour is over", 59*time.Minute, 1, known)
		set := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }
		set(func() { fails = errors.New("away") })
		step("an hour later, GitLab away", time.Minute, 2, known)
		step("tried again", 5*time.Minute, 3, known)
		set(func() { token = "b" })
		step("another token, GitLab away", time.Minute, 4)
		set(func() { fails, end = nil, day.AddDate(1, 0, 0) })
		step("GitLab back", 5*time.Minute, 5, expiry.End{What: known.What, At: day.AddDate(1, 0, 0)})
		set(func() { end = time.Time{} })
		step("it does not end any more", time.Hour, 6)
		cancel()
		<-done
	})
}

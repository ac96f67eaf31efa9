//go:build unix

package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

const (
	clientID   = "5f1c0a7e2b9d4c68a1e3f7095d2b8c46a7e1f3059d2c8b4a6e1f70395d2c8b4a"
	ciAudience = "https://k8s.example.com"
)

// issuer is a GitLab that answers for its keys alone, and counts.
type issuer struct {
	server *httptest.Server
	key    *rsa.PrivateKey
	kid    string
	reads  atomic.Int64
}

func newIssuer() (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	public := jose.JSONWebKey{Key: key.Public(), Algorithm: "RS256", Use: "sig"}
	sum, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	i := &issuer{key: key, kid: base64.RawURLEncoding.EncodeToString(sum)}
	public.KeyID = i.kid
	i.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := any(map[string]string{"issuer": i.server.URL, "jwks_uri": i.server.URL + "/oauth/discovery/keys"})
		if r.URL.Path == "/oauth/discovery/keys" {
			i.reads.Add(1)
			answer = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	return i, nil
}

func segment(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // maps of strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func (i *issuer) sign(claims map[string]any) (string, error) {
	signed := segment(map[string]string{"alg": "RS256", "kid": i.kid, "typ": "JWT"}) + "." + segment(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

// ofJob reports whether the n-th token is that of a CI job: every fifth. The others are people's.
func ofJob(n int) bool { return n%5 == 4 }

// people returns the reviews of people among those that valid made.
func people(bodies [][]byte) (out [][]byte) {
	for n, body := range bodies {
		if !ofJob(n) {
			out = append(out, body)
		}
	}
	return out
}

// claims are those of a person's token as GitLab 17.8 and newer makes it, or of a CI job's.
func (i *issuer) claims(n int) map[string]any {
	now := time.Now().Unix()
	id, name := strconv.Itoa(n+1), "user"+strconv.Itoa(n+1)
	if ofJob(n) {
		return map[string]any{
			"namespace_id": "72", "namespace_path": "my-group", "project_id": id, "project_path": "my-group/project-" + id,
			"user_id": "1", "user_login": "sample-user", "user_email": "sample-user@example.com", "user_access_level": "developer",
			"job_project_id": id, "job_project_path": "my-group/project-" + id, "job_namespace_id": "72", "job_namespace_path": "my-group",
			"pipeline_id": "574", "pipeline_source": "push", "job_id": strconv.Itoa(302 + n), "ref": "main", "ref_type": "branch",
			"ref_path": "refs/heads/main", "ref_protected": "true", "environment": "ICC-K8s", "environment_protected": "false",
			"deployment_tier": "other", "environment_action": "start", "runner_id": 1, "runner_environment": "self-hosted",
			"sha": "714a629c0b401fdce83e847fc9589983fc6f46bc", "project_visibility": "private", "jti": "235b3a54-b797-45c7-ae9a-" + id,
			"iss": i.server.URL, "iat": now, "nbf": now - 5, "exp": now + 7200, "aud": ciAudience,
			"sub": "project_path:my-group/project-" + id + ":ref_type:branch:ref:main",
		}
	}
	return map[string]any{
		"iss": i.server.URL, "sub": id, "aud": clientID, "exp": now + 7200, "iat": now, "auth_time": now - 3600,
		"sub_legacy": "6c3b1a2f5e4d7c8b9a0f1e2d3c4b5a69788796a5b4c3d2e1f0a9b8c7d6e5f4a3", "name": "Person " + id, "nickname": name,
		"preferred_username": name, "email": name + "@example.com", "email_verified": true, "profile": i.server.URL + "/" + name,
		"picture": i.server.URL + "/uploads/-/system/user/avatar/" + id + "/avatar.png", "groups_direct": []string{"my-group", "my-group/team", "other"},
	}
}

// review is what kube-apiserver sends.
func review(token string) []byte {
	return fmt.Appendf(nil, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{"token":%q,"audiences":["https://kubernetes.default.svc"]},"status":{"user":{}}}`+"\n", token)
}

// valid signs n distinct tokens on all processors.
func (i *issuer) valid(n int) ([][]byte, error) {
	bodies := make([][]byte, n)
	var all sync.WaitGroup
	var failed atomic.Pointer[error]
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		all.Go(func() {
			for k := w; k < n; k += workers {
				token, err := i.sign(i.claims(k))
				if err != nil {
					failed.Store(&err)
					return
				}
				bodies[k] = review(token)
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	return bodies, nil
}

// foreign makes tokens of others: ServiceAccounts of clusters, other providers, opaque ones and garbage.
func (i *issuer) foreign(n int) [][]byte {
	bodies := make([][]byte, n)
	filler := make([]byte, 256)
	for k := range bodies {
		_, _ = rand.Read(filler) // never fails
		signature := base64.RawURLEncoding.EncodeToString(filler)
		var token string
		switch k % 4 {
		case 0: // a ServiceAccount of Kubernetes
			token = segment(map[string]string{"alg": "RS256", "kid": "x"}) + "." + segment(map[string]any{
				"iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:ns:sa" + strconv.Itoa(k), "aud": []string{"https://kubernetes.default.svc"},
				"exp": time.Now().Unix() + 3600, "iat": time.Now().Unix(), "kubernetes.io": map[string]any{"namespace": "ns", "serviceaccount": map[string]string{"name": "sa", "uid": "0a1b"}},
			}) + "." + signature
		case 1: // another provider
			token = segment(map[string]string{"alg": "RS256", "kid": "x"}) + "." + segment(map[string]any{
				"iss": "https://login.example.org", "sub": strconv.Itoa(k), "aud": clientID, "exp": time.Now().Unix() + 3600, "email": "somebody@example.org",
			}) + "." + signature
		case 2:
			token = signature[:20]
		default:
			token = signature[:40] + "." + signature[40:200] + "." + signature[200:]
		}
		bodies[k] = review(token)
	}
	return bodies
}

// verification returns the processor time of one RSA-2048 verification, SHA-256 of a token included, and of none else.
func (i *issuer) verification() (time.Duration, error) {
	signed := make([]byte, 900)
	sum := sha256.Sum256(signed)
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	if err != nil {
		return 0, err
	}
	const n = 4000
	begin := cpu()
	for range n {
		sum := sha256.Sum256(signed)
		if err := rsa.VerifyPKCS1v15(&i.key.PublicKey, crypto.SHA256, sum[:], signature); err != nil {
			return 0, err
		}
	}
	return (cpu() - begin) / n, nil
}

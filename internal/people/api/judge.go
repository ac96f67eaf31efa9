package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// bearer returns the token of a request (RFC 6750, in the header Authorization alone: a URL ends in logs).
func bearer(r *http.Request) (string, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 1 {
		scheme, token, _ := strings.Cut(values[0], " ")
		if token = strings.TrimSpace(token); strings.EqualFold(scheme, "Bearer") && token != "" {
			return token, nil
		}
	}
	return "", &problem{
		http.StatusUnauthorized, CodeNoToken,
		"there is no ID token: send the one that kubectl has, as \"Authorization: Bearer TOKEN\"; kubelogin prints it (docs/my-namespaces.md)",
	}
}

// challenge is the answer's WWW-Authenticate.
func challenge(code string) string {
	if code == CodeNoToken {
		return "Bearer"
	}
	return `Bearer error="invalid_token"`
}

// judge says whose token that is, and when it ends.
func (a *API) judge(ctx context.Context, token string) (user int64, until time.Time, err error) {
	var judge authn.Authenticator
	if a.o.Authenticator != nil {
		judge = a.o.Authenticator()
	}
	if judge == nil {
		return 0, time.Time{}, &problem{http.StatusServiceUnavailable, CodeNotDecided, "this process judges no tokens: ask the cluster's administrators"}
	}
	id, err := judge.Authenticate(ctx, token)
	if err != nil {
		return 0, time.Time{}, refusal(err)
	}
	if _, job := kubename.ParseCIJob(id.Username); job {
		return 0, time.Time{}, ciJob()
	}
	user, ok := kubename.ParseUser(id.Username)
	if !ok {
		return 0, time.Time{}, &problem{http.StatusServiceUnavailable, string(authn.CodeUnsafeIdentity), "the token names nobody: report it to the cluster's administrators"}
	}
	return user, id.Expiry, nil
}

func ciJob() *problem {
	return &problem{
		http.StatusForbidden, CodeCIJob,
		"this is the token of a CI job, and only people are told about themselves: log in with kubelogin; what a job may do is in docs/ci.md",
	}
}

// refusal says in words for people why a token is not taken.
func refusal(err error) *problem {
	denied, isDenied := errors.AsType[*authn.DeniedError](err)
	if isDenied && denied.Kind == authn.KindCI {
		return ciJob()
	}
	code := authn.CodeOf(err)
	reason, _ := authn.ReasonFor(code)
	text := reason.Cause
	if isDenied && denied.Detail != "" {
		text = denied.Detail
	}
	status := http.StatusServiceUnavailable
	if isDenied || errors.Is(err, authn.ErrNotMine) {
		status = http.StatusUnauthorized
	}
	return &problem{status, string(code), text + ". " + reason.Hint}
}

// etag stands for an answer, whenever GitLab was read for it.
func etag(v any) string {
	if list, ok := v.(webapi.MyNamespaces); ok {
		list.AsOf = time.Time{}
		v = list
	}
	body, _ := json.Marshal(v) //nolint:errchkjson // whoever writes the answer sees it
	sum := sha256.Sum256(body)
	return `W/"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`
}

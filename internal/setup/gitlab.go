package setup

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// lookTimeout bounds everything that is asked of GitLab.
const lookTimeout = 30 * time.Second

// look asks GitLab what it is and what the tokens are good for, and says what it found, one line each. What can't be asked is
// a warning. No line holds a token.
func look(ctx context.Context, a Answers, f folder, now time.Time) []string {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	client, err := gitlab.NewHTTPClient(f["integrator/gitlab-ca.crt"].data, lookTimeout)
	if err != nil {
		return []string{"warning: " + err.Error()}
	}
	client.CheckRedirect = gitlab.SameHost
	g := gitlabClient{client, a.GitLab}
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	var about struct {
		Issuer string `json:"issuer"`
	}
	switch err := g.get(ctx, "/.well-known/openid-configuration", "", &about); {
	case err != nil:
		say("warning: GitLab can't be read from here (%v): %s; check-config and plan will tell more", err, hint(err))
		return out
	case about.Issuer != a.GitLab:
		say("warning: GitLab at %s calls itself %q: give that as --gitlab, else nobody can log in. It was sent no token", a.GitLab, about.Issuer)
		return out
	}
	tokens := []struct {
		flag, file, want string
	}{{"read-token-file", "integrator/read-token", "read_api"}, {"write-token-file", "integrator/write-token", "api"}}
	for _, t := range tokens {
		file, ok := f[t.file]
		if !ok {
			continue
		}
		token := strings.TrimSpace(string(file.data))
		if t.flag == "read-token-file" {
			out = append(out, g.version(ctx, token))
		}
		out = append(out, g.token(ctx, t.flag, token, t.want, now)...)
	}
	return out
}

// hint says what to look at when GitLab can't be read.
func hint(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var dns *net.DNSError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &unknown):
		return "its certificate is by a CA that this machine does not know: give that with --gitlab-ca-file"
	case errors.As(err, &name):
		return "its certificate is for another name: give GitLab's own URL as --gitlab"
	case errors.As(err, &dns):
		return "the name of --gitlab is not known here"
	case errors.As(err, &syntax):
		return "what answers there is not GitLab: check --gitlab, and whether a proxy is in between"
	}
	return "check the URL and the CA yourself"
}

// gitlabClient asks the GitLab that the answers name.
type gitlabClient struct {
	client *http.Client
	url    string
}

// maxAnswer bounds one answer; each has a few lines.
const maxAnswer = 1 << 20

func (g gitlabClient) get(ctx context.Context, path, token string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url+path, nil)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("PRIVATE-TOKEN", token)
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusUnauthorized && token != "":
		return errors.New("GitLab does not accept the token: it is mistyped, revoked or ended, or of another GitLab")
	case resp.StatusCode != http.StatusOK:
		return errors.New(path + " answers " + resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into)
}

func (g gitlabClient) version(ctx context.Context, token string) string {
	var v struct {
		Version string `json:"version"`
	}
	if err := g.get(ctx, "/api/v4/version", token, &v); err != nil {
		return fmt.Sprintf("warning: GitLab's version is not known: %v", err)
	}
	if have, ok := gitlabversion.Parse(v.Version); ok && have.Before(gitlabversion.Oldest) {
		return fmt.Sprintf("warning: GitLab is %s, and %s is the oldest that works: upgrade it first", have, gitlabversion.Oldest)
	}
	return "GitLab is " + v.Version
}

// token says whose a token is, its scopes and its end.
func (g gitlabClient) token(ctx context.Context, flag, token, want string, now time.Time) []string {
	var t struct {
		Scopes    []string `json:"scopes"`
		ExpiresAt string   `json:"expires_at"`
	}
	if err := g.get(ctx, "/api/v4/personal_access_tokens/self", token, &t); err != nil {
		return []string{fmt.Sprintf("warning: --%s: what the token may do is not known: %v", flag, err)}
	}
	var user struct {
		Username string `json:"username"`
		Admin    bool   `json:"is_admin"`
	}
	var out []string
	if err := g.get(ctx, "/api/v4/user", token, &user); err != nil {
		out = append(out, fmt.Sprintf("warning: --%s: whose token it is is not known: %v", flag, err))
	}
	whose := user.Username
	if user.Admin {
		whose += ", an administrator"
	}
	end := "has no end"
	if t.ExpiresAt != "" {
		end = "ends on " + t.ExpiresAt
	}
	out = append(out, fmt.Sprintf("--%s: the token of %s, scopes %s, %s", flag, whose, strings.Join(t.Scopes, " "), end))
	if !slices.Contains(t.Scopes, want) && !slices.Contains(t.Scopes, "api") {
		out = append(out, fmt.Sprintf("warning: --%s: the token lacks the scope %s: make another one", flag, want))
	}
	if !user.Admin {
		out = append(out, fmt.Sprintf("warning: --%s: the token is not an administrator's: %s", flag, map[string]string{
			"read_api": "it is not shown private groups, and the namespaces of what inherits from them or invites them are left as they are",
			"api":      "it can't register the system hook, and writes variables only where its user may",
		}[want]))
	}
	if at, err := time.Parse(time.DateOnly, t.ExpiresAt); err == nil && at.Before(now.AddDate(0, 1, 0)) {
		out = append(out, fmt.Sprintf("warning: --%s: the token ends on %s: make one that lasts", flag, t.ExpiresAt))
	}
	return out
}

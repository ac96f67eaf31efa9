package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// gitlabLook looks at GitLab.
type gitlabLook struct{ *collector }

// all looks at GitLab, its keys, both tokens, the applications and hooks.
func (c gitlabLook) all(ctx context.Context) {
	if c.GitLab == nil || c.Config == nil {
		return
	}
	c.discovery(ctx)
	if c.facts.GitLab.Fault != None {
		why := errors.New("GitLab could not be asked")
		c.blind("tokens, applications and system hooks", why, "repair what is said of GitLab first")
		return
	}
	var wait sync.WaitGroup
	var read, write string
	wait.Go(func() { read = c.readSide(ctx) })
	wait.Go(func() { write = c.writeSide(ctx) })
	wait.Wait()
	c.clients(ctx)
	c.facts.Shared = read != "" && read == write
}

// fetch gets a document of GitLab's.
func (c gitlabLook) fetch(ctx context.Context, at string, into any) (a answered, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return a, err
	}
	sent := c.Now()
	resp, err := authn.HTTPClient(c.GitLab).Do(req) // by the rules for redirects that serve has
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a = answered{true, c.clock(resp, sent), resp.TLS}
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("%s answers %s", at, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(into); err != nil {
		return a, fmt.Errorf("%s answers no JSON of the expected form", at)
	}
	return a, nil
}

// answered is what an answer tells beside its body.
type answered struct {
	ok    bool // there is one
	clock *time.Duration
	tls   *tls.ConnectionState
}

// discovery asks GitLab for its own name, its clock and its keys.
func (c gitlabLook) discovery(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	g := &c.facts.GitLab
	var doc struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	a, err := c.fetch(ctx, c.Config.GitLab.URL+"/.well-known/openid-configuration", &doc)
	g.Clock = a.clock
	c.served("GitLab", a.tls)
	switch {
	case err != nil && !a.ok:
		g.Fault, g.Text = faultOf(err), err.Error()
	case err != nil:
		g.Fault, g.Text = Odd, err.Error()
	case doc.Issuer == "":
		g.Fault, g.Text = Odd, "its discovery document has no issuer"
	}
	if g.Fault != None {
		return
	}
	g.Issuer = doc.Issuer
	if c.Config.Authn.Keys.File != "" { // a file that is judged with the other files
		return
	}
	if c.Config.Authn.Keys.URL != "" {
		doc.Keys = c.Config.Authn.Keys.URL
	} else if err := authn.SameOrigin(doc.Issuer, doc.Keys); err != nil {
		g.KeysBad = fmt.Sprintf("GitLab says that its keys are at %q: %v", doc.Keys, err)
		return
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if _, err := c.fetch(ctx, doc.Keys, &set); err != nil {
		g.KeysBad = err.Error()
	} else if g.Keys = len(set.Keys); g.Keys == 0 {
		g.KeysBad = doc.Keys + " has no keys"
	}
}

// inspector returns an Inspector with a token, and the token. An unreadable token file is reported with the other files.
func (c gitlabLook) inspector(token func() (string, error)) (*gitlab.Inspector, string) {
	if token == nil {
		return nil, ""
	}
	value, err := token()
	if err != nil {
		return nil, ""
	}
	i, err := gitlab.NewInspector(gitlab.Options{BaseURL: c.Config.GitLab.URL, Token: token, HTTPClient: c.GitLab, MaxRetries: -1, Now: c.Now})
	if err != nil {
		return nil, ""
	}
	return i, value
}

// token looks at one token. It reports whether that can be used.
func (c gitlabLook) token(ctx context.Context, i *gitlab.Inspector, name string, into *Token) bool {
	state, err := i.Token(ctx)
	switch {
	case errors.Is(err, gitlab.ErrUnauthorized):
		into.Refused = err.Error()
	case errors.Is(err, gitlab.ErrForbidden) && len(state.Scopes) > 0: // its scopes don't allow to ask who it belongs to
		into.Known, into.State = true, state
	case errors.Is(err, gitlab.ErrForbidden):
		into.Refused = err.Error()
	case err != nil:
		c.blind("the "+name, err, "run it again when GitLab answers")
	default:
		into.Known, into.State = true, state
	}
	return into.Known
}

func (c gitlabLook) readSide(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	i, value := c.inspector(c.ReadToken)
	if i == nil {
		c.blind("GitLab's version, the read token and the applications", errors.New("gitlab.readTokenFile can't be read here"), "put the token there, or run this where it is")
		return ""
	}
	if !c.token(ctx, i, "read token", &c.facts.Read) {
		return value
	}
	g := &c.facts.GitLab
	var err error
	if g.Version, g.Number, err = i.Version(ctx); err != nil && slices.Contains(c.facts.Read.State.Scopes, "read_api") {
		c.blind("GitLab's version", err, "look into GitLab's log")
	}
	if !c.facts.Read.State.Admin {
		c.skip("redirect URIs and scopes of the OAuth applications", "GitLab shows them to administrators alone", "an administrator's token in gitlab.readTokenFile")
		return value
	}
	apps, err := i.Applications(ctx)
	if err != nil {
		c.blind("the OAuth applications", err, "use an administrator's token in gitlab.readTokenFile")
		return value
	}
	find := func(id string) Application {
		a := Application{ID: id}
		if at := slices.IndexFunc(apps, func(a gitlab.Application) bool { return a.ClientID == id }); at >= 0 {
			a.Found = &apps[at]
		}
		return a
	}
	for _, id := range c.Config.Authn.ClientIDs {
		c.facts.Applications = append(c.facts.Applications, find(id))
	}
	if id := c.Config.Web.ClientID; id != "" {
		c.facts.Page = new(find(id))
	}
	return value
}

// clients asks the token endpoint about the client ids, as kubelogin would: without a secret, and with a code that is none.
// GitLab tells by its error whether it knows the client and demands a secret of it; redirect URIs and scopes it judges only of
// who has logged in. Source: https://www.rfc-editor.org/rfc/rfc6749#section-5.2.
func (c gitlabLook) clients(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if c.facts.Applications == nil { // what GitLab has could not be listed
		for _, id := range c.Config.Authn.ClientIDs {
			c.facts.Applications = append(c.facts.Applications, Application{ID: id, Unlisted: true})
		}
	}
	for i := range c.facts.Applications {
		a := &c.facts.Applications[i]
		var err error
		if a.Client, err = c.client(ctx, a.ID); err != nil && a.Unlisted {
			c.blind("the OAuth application "+a.ID, err, "run it again when GitLab answers")
		}
	}
}

func (c gitlabLook) client(ctx context.Context, id string) (Client, error) {
	form := url.Values{
		"grant_type": {"authorization_code"}, "client_id": {id}, "code": {probeType}, "redirect_uri": {RedirectURIs()[0]},
		"code_verifier": {strings.Repeat("0", 43)},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Config.GitLab.URL+"/oauth/token", strings.NewReader(form.Encode()))
	if err != nil {
		return ClientUnasked, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.GitLab.Do(req)
	if err != nil {
		return ClientUnasked, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string `json:"error"`
	}
	_ = json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&answer) // another form tells nothing
	switch answer.Error {
	case "invalid_grant":
		return ClientTaken, nil
	case "invalid_client":
		return ClientRefused, nil
	}
	return ClientUnasked, fmt.Errorf("/oauth/token answers %s", resp.Status)
}

func (c gitlabLook) writeSide(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	const needs = "name a token of an administrator with the scope api in gitlab.writeTokenFile"
	if c.Config.GitLab.WriteTokenFile == "" {
		c.skip("system hooks", "gitlab.writeTokenFile is not configured", needs)
		return ""
	}
	i, value := c.inspector(c.WriteToken)
	if i == nil {
		c.blind("the write token and the system hooks", errors.New("gitlab.writeTokenFile can't be read here"), "put the token there, or run this where it is")
		return ""
	}
	if !c.token(ctx, i, "write token", &c.facts.Write) || c.Config.Listeners.Hooks.Address == "" {
		return value
	}
	if t := c.facts.Write.State; !t.Admin || !slices.Contains(t.Scopes, "api") {
		c.skip("system hooks", "the write token is not an administrator's with the scope api", needs)
		return value
	}
	claim := gitlab.Claim{Replaces: c.Config.Cluster.Replaces}
	if c.Kube != nil {
		claim.Cluster, _ = ci.ClusterID(ctx, c.Kube) // without it each hook with a cluster's name is another's: not told apart
	}
	all, err := i.Hooks(ctx, claim)
	if err != nil {
		c.blind("the system hooks", err, needs)
		return value
	}
	if claim.Cluster == "" && slices.ContainsFunc(all, func(h gitlab.HookState) bool { return h.Other }) {
		c.blind("the system hooks", errors.New("which cluster this is could not be read, and hooks are named by it"), "repair what is said of kube-apiserver first")
		return value
	}
	c.facts.Hooks = Hooks{Known: true, All: all}
	return value
}

// CertificateFiles returns the PEM files with certificates that a configuration names, by what they are.
func CertificateFiles(cfg *config.Config) map[string]string {
	return map[string]string{
		"gitlab.caFile":                   cfg.GitLab.CAFile,
		"cluster.publicCAFile":            cfg.Cluster.PublicCAFile,
		"listeners.webhooks.certFile":     cfg.Listeners.Webhooks.CertFile,
		"listeners.webhooks.clientCAFile": cfg.Listeners.Webhooks.ClientCAFile,
		"listeners.hooks.certFile":        cfg.Listeners.Hooks.CertFile,
		"listeners.metrics.certFile":      cfg.Listeners.Metrics.CertFile,
	}
}

package realoidc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// provider is one of the two that are compared.
type provider struct {
	issuer string
	client *http.Client // follows no redirect
}

// answer is what is compared of an answer: never a value that differs by chance.
type answer struct {
	res  *http.Response
	body []byte
}

func (p provider) send(ctx context.Context, method, path, bearer string, form url.Values) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		return answer{}, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	res, err := p.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return answer{res, body}, err
}

// errorCode describes an answer by status and, where it is JSON, its error.
func (a answer) errorCode() string {
	var e struct {
		Code string `json:"error"`
		Text string `json:"error_description"`
	}
	if json.Unmarshal(a.body, &e) != nil {
		return fmt.Sprintf("%d and a page", a.res.StatusCode)
	}
	return fmt.Sprintf("%d %s: %s", a.res.StatusCode, e.Code, e.Text)
}

// shape describes a JSON object by its members and their types.
func shape(data []byte) string {
	var object map[string]any
	if err := json.Unmarshal(data, &object); err != nil {
		return "no JSON object: " + err.Error()
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(object)) {
		out = append(out, fmt.Sprintf("%s %T", name, object[name]))
	}
	return strings.Join(out, ", ")
}

func verifier() (plain, challenge string) {
	plain = "a-verifier-of-at-least-forty-three-characters"
	sum := sha256.Sum256([]byte(plain))
	return plain, base64.RawURLEncoding.EncodeToString(sum[:])
}

func authorizeURL(change func(url.Values)) string {
	_, challenge := verifier()
	q := url.Values{
		"client_id": {"kubectl"}, "redirect_uri": {"http://localhost:8000"}, "response_type": {"code"}, "scope": {"openid"},
		"state": {"a state"}, "nonce": {"a nonce"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}
	if change != nil {
		change(q)
	}
	return "/oauth/authorize?" + q.Encode()
}

// code logs alice in and returns the code of the callback.
func (p provider) code(ctx context.Context, change func(url.Values)) (string, error) {
	callback, err := gitlabsim.Login(ctx, p.client, p.issuer+authorizeURL(change), "alice", "alice-pw")
	if err != nil {
		return "", err
	}
	u, err := url.Parse(callback)
	if err != nil {
		return "", err
	}
	return u.Query().Get("code"), nil
}

func exchange(code string) url.Values {
	plain, _ := verifier()
	return url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"kubectl"}, "redirect_uri": {"http://localhost:8000"},
		"code": {code}, "code_verifier": {plain},
	}
}

func set(name, value string) func(url.Values) { return func(v url.Values) { v.Set(name, value) } }
func del(name string) func(url.Values)        { return func(v url.Values) { v.Del(name) } }

// ask asks everything that is compared. Its keys name the questions.
func (p provider) ask(ctx context.Context) (map[string]string, error) {
	said := map[string]string{}
	for _, part := range []func(context.Context, map[string]string) error{p.documents, p.pages, p.exchanges, p.login} {
		if err := part(ctx, said); err != nil {
			return nil, err
		}
	}
	return said, nil
}

func (p provider) documents(ctx context.Context, said map[string]string) error {
	a, err := p.send(ctx, http.MethodGet, "/.well-known/openid-configuration", "", nil)
	if err != nil {
		return err
	}
	var document map[string]any
	if err := json.Unmarshal(bytes.ReplaceAll(a.body, []byte(p.issuer), nil), &document); err != nil {
		return err
	}
	for name, value := range document {
		text, _ := json.Marshal(value)
		said["discovery "+name] = string(text)
	}
	if a, err = p.send(ctx, http.MethodGet, "/oauth/discovery/keys", "", nil); err != nil {
		return err
	}
	var keys struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(a.body, &keys); err != nil || len(keys.Keys) == 0 {
		return fmt.Errorf("reading the keys: %w: %s", err, a.body)
	}
	said["key"] = shape(keys.Keys[0])
	for name, token := range map[string]string{"without a token": "", "with a false token": "0123456789abcdef"} {
		if a, err = p.send(ctx, http.MethodGet, "/oauth/userinfo", token, nil); err != nil {
			return err
		}
		said["userinfo "+name] = fmt.Sprint(a.res.StatusCode)
	}
	return nil
}

// pages asks the authorization endpoint, where a mistake is either redirected to the client or shown on a page.
func (p provider) pages(ctx context.Context, said map[string]string) error {
	for name, change := range map[string]func(url.Values){
		"unknown client":          set("client_id", "nobody"),
		"no client":               del("client_id"),
		"another redirect URI":    set("redirect_uri", "http://localhost:9999"),
		"no redirect URI":         del("redirect_uri"),
		"slash after the URI":     set("redirect_uri", "http://localhost:8000/"),
		"loopback, another port":  set("redirect_uri", "http://127.0.0.1:9999"),
		"out of band":             set("redirect_uri", "urn:ietf:wg:oauth:2.0:oob"),
		"scope not of the client": set("scope", "openid api"),
		"unknown scope":           set("scope", "openid offline_access"),
		"implicit":                set("response_type", "token"),
		"odd challenge method":    set("code_challenge_method", "md5"),
		"nothing odd":             nil,
	} {
		callback, err := gitlabsim.Login(ctx, p.client, p.issuer+authorizeURL(change), "alice", "alice-pw")
		if err != nil {
			said["authorize "+name] = "a page"
			continue
		}
		u, err := url.Parse(strings.TrimPrefix(callback, p.issuer))
		if err != nil {
			return err
		}
		q := u.Query()
		if q.Has("code") {
			q.Set("code", "CODE")
		}
		u.RawQuery = q.Encode()
		said["authorize "+name] = u.String()
	}
	return nil
}

// exchanges asks the token endpoint, with a fresh code each.
func (p provider) exchanges(ctx context.Context, said map[string]string) error {
	for name, c := range map[string]struct{ authorize, change func(url.Values) }{
		"wrong code":                      {change: set("code", "guess")},
		"no code":                         {change: del("code")},
		"wrong verifier":                  {change: set("code_verifier", "guess")},
		"no verifier":                     {change: del("code_verifier")},
		"verifier without a challenge":    {authorize: func(q url.Values) { q.Del("code_challenge"); q.Del("code_challenge_method") }},
		"another redirect URI":            {change: set("redirect_uri", "http://localhost:18000")},
		"no redirect URI":                 {change: del("redirect_uri")},
		"unknown client":                  {change: set("client_id", "nobody")},
		"no client":                       {change: del("client_id")},
		"confidential without its secret": {change: set("client_id", "web")},
		"confidential, wrong secret":      {change: func(v url.Values) { v.Set("client_id", "web"); v.Set("client_secret", "guess") }},
		"code of another client":          {change: func(v url.Values) { v.Set("client_id", "web"); v.Set("client_secret", "gloas-x") }},
		"no grant type":                   {change: del("grant_type")},
		"odd grant type":                  {change: set("grant_type", "magic")},
		"implicit grant type":             {change: set("grant_type", "implicit")},
		"no refresh token":                {change: set("grant_type", "refresh_token")},
		"false refresh token":             {change: func(v url.Values) { v.Set("grant_type", "refresh_token"); v.Set("refresh_token", "guess") }},
	} {
		code, err := p.code(ctx, c.authorize)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		form := exchange(code)
		if c.change != nil {
			c.change(form)
		}
		a, err := p.send(ctx, http.MethodPost, "/oauth/token", "", form)
		if err != nil {
			return err
		}
		said["token "+name] = a.errorCode() + " challenge " + a.res.Header.Get("WWW-Authenticate")
	}
	return nil
}

// login asks what a login without a mistake gives, and what comes of it afterwards.
func (p provider) login(ctx context.Context, said map[string]string) error {
	code, err := p.code(ctx, nil)
	if err != nil {
		return err
	}
	first, err := p.send(ctx, http.MethodPost, "/oauth/token", "", exchange(code))
	if err != nil {
		return err
	}
	again, err := p.send(ctx, http.MethodPost, "/oauth/token", "", exchange(code))
	if err != nil {
		return err
	}
	said["token the same code again"] = again.errorCode()
	said["token"] = shape(first.body)
	said["token caching"] = first.res.Header.Get("Cache-Control")
	type tokens struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		ID      string `json:"id_token"`
		Type    string `json:"token_type"`
		Scope   string `json:"scope"`
		Expires int    `json:"expires_in"`
	}
	var t tokens
	if err := json.Unmarshal(first.body, &t); err != nil {
		return err
	}
	said["token type, scope, seconds"] = fmt.Sprint(t.Type, t.Scope, t.Expires)
	p.idToken("ID token", t.ID, said)
	info, err := p.send(ctx, http.MethodGet, "/oauth/userinfo", t.Access, nil)
	if err != nil {
		return err
	}
	said["userinfo"] = shape(info.body)
	refresh := url.Values{"grant_type": {"refresh_token"}, "client_id": {"kubectl"}, "refresh_token": {t.Refresh}}
	second, err := p.send(ctx, http.MethodPost, "/oauth/token", "", refresh)
	if err != nil {
		return err
	}
	said["refresh"] = shape(second.body)
	if err := json.Unmarshal(second.body, &t); err != nil {
		return err
	}
	p.idToken("ID token of a refresh", t.ID, said)
	if again, err = p.send(ctx, http.MethodPost, "/oauth/token", "", refresh); err != nil {
		return err
	}
	said["refresh again"] = again.errorCode()
	revoked, err := p.send(ctx, http.MethodPost, "/oauth/revoke", "", url.Values{"client_id": {"kubectl"}, "token": {t.Refresh}})
	if err != nil {
		return err
	}
	said["revoke"] = fmt.Sprint(revoked.res.StatusCode, string(revoked.body))
	refresh.Set("refresh_token", t.Refresh)
	if again, err = p.send(ctx, http.MethodPost, "/oauth/token", "", refresh); err != nil {
		return err
	}
	said["refresh after revoke"] = again.errorCode()
	return nil
}

func (p provider) idToken(name, token string, said map[string]string) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		said[name] = fmt.Sprintf("%d parts", len(parts))
		return
	}
	for i, part := range []string{"header", "claims"} {
		data, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			said[name+" "+part] = err.Error()
			continue
		}
		said[name+" "+part] = shape(data)
	}
}

// TestSimulatorIsTheLibrary asks our simulated GitLab and GitLab's library the same questions. What may differ is in
// the table, with the reason.
func TestSimulatorIsTheLibrary(t *testing.T) {
	issuer, _, client := startProvider(t)
	sim, err := gitlabsim.New(gitlabsim.Options{Seed: []byte(`
users:
- {id: 41, username: alice, name: Alice, email: alice@example.com, password: alice-pw}
applications:
- {uid: kubectl, name: kubectl, redirectURIs: ["http://localhost:8000", "http://127.0.0.1/", "urn:ietf:wg:oauth:2.0:oob"], scopes: [openid, profile, email]}
- {uid: web, name: web, secret: gloas-x, confidential: true, redirectURIs: ["http://localhost:8000"], scopes: [openid]}
`)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sim.Close)
	real, err := still(provider{issuer, client}).ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	simulated, err := still(provider{sim.URL(), sim.Client()}).ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := maps.Clone(real)
	maps.Copy(names, simulated)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		reason, may := differences[name]
		switch same := real[name] == simulated[name]; {
		case !same && !may:
			t.Errorf("%s:\nthe library: %s\nsimulated:   %s", name, real[name], simulated[name])
		case same && may:
			t.Errorf("%s is the same, but the table says that it differs: %s", name, reason)
		}
	}
	for name := range differences {
		if _, asked := names[name]; !asked {
			t.Errorf("the table has %s, which nobody asks", name)
		}
	}
	if len(names) < 40 {
		t.Errorf("only %d questions", len(names))
	}
}

// still makes the client follow no redirect.
func still(p provider) provider {
	p.client = &http.Client{
		Transport: p.client.Transport, Timeout: p.client.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

// differences are the questions that GitLab itself answers otherwise than its bare library in Debian's version.
var differences = map[string]string{
	"discovery claims_supported":                 "the test's configuration has the claims that concern us; GitLab lists more",
	"discovery code_challenge_methods_supported": "Debian's version of the library does not list them yet, though it supports them",
	"discovery grant_types_supported":            "GitLab has the device flow besides, from a library that Debian lacks",
	"discovery scopes_supported":                 "the test's configuration has the scopes that concern us; GitLab lists more",
}

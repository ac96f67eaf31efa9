package gitlabsim

import (
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
)

// person is somebody with a browser that follows no redirect to a client.
type person struct {
	t      *testing.T
	f      *fixture
	client *http.Client
}

func (f *fixture) person() *person {
	f.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	base := strings.TrimPrefix(f.URL(), "https://")
	return &person{f.t, f, &http.Client{Transport: f.client.Transport, Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Host != base {
			return http.ErrUseLastResponse
		}
		return nil
	}}}
}

func (p *person) do(method, path string, form url.Values) fetched {
	p.t.Helper()
	res, err := fetch(p.t.Context(), p.client, method, p.f.URL()+path, form)
	if err != nil {
		p.t.Fatal(err)
	}
	return res
}

// signIn signs alice in, on the form that a page has sent them to.
func (p *person) signIn(shown fetched) fetched {
	p.t.Helper()
	form := fields(signsIn.FindString(shown.body))
	form.Set("user[login]", "alice")
	form.Set("user[password]", "alice-pw")
	return p.do(http.MethodPost, "/users/sign_in", form)
}

// TestWhoIsAskedForConsent: a trusted application never asks, a confidential one until it has a token, a public one each time.
func TestWhoIsAskedForConsent(t *testing.T) {
	f := newFixture(t, nil)
	for _, a := range []Application{
		{UID: "trusted", Trusted: true}, {UID: "confidential", Confidential: true, Secret: "s3cret"}, {UID: "public"},
	} {
		a.RedirectURIs, a.Scopes = []string{"http://localhost:8000"}, []string{"openid"}
		if err := f.AddApplication(a); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(app string) string {
		return strings.TrimPrefix(f.authorizeURL(func(q url.Values) { q.Set("client_id", app) }), f.URL())
	}
	p := f.person()
	p.signIn(p.do(http.MethodGet, "/", nil))
	for _, c := range []struct {
		app  string
		asks [2]bool // the first time, and when the application has a token
	}{{"trusted", [2]bool{false, false}}, {"confidential", [2]bool{true, false}}, {"public", [2]bool{true, true}}} {
		for i, asks := range c.asks {
			shown := p.do(http.MethodGet, ask(c.app), nil)
			equal(t, c.app+" asks", agrees.MatchString(shown.body), asks)
			callback := ""
			if form := agrees.FindString(shown.body); form != "" {
				answer := p.do(http.MethodPost, "/oauth/authorize", fields(form))
				equal(t, c.app+": after consent", answer.status, http.StatusFound)
				callback = answer.location
			} else if m := goesOn.FindStringSubmatch(shown.body); m != nil {
				equal(t, c.app+": without consent", shown.status, http.StatusOK) // a page, no redirect
				callback = strings.ReplaceAll(m[1], "&amp;", "&")
			}
			u, err := url.Parse(callback)
			if err != nil || u.Query().Get("state") != "st&te" {
				t.Fatalf("%s, %d: callback %q", c.app, i, callback)
			}
			form := exchange(u.Query().Get("code"))
			form.Set("client_id", c.app)
			if c.app == "confidential" {
				form.Set("client_secret", "s3cret")
			}
			equal(t, c.app+": token", f.do("POST", "/oauth/token", "", form).status, http.StatusOK)
		}
	}
	shown := p.do(http.MethodGet, ask("public"), nil)
	form := fields(agrees.FindString(shown.body))
	form.Set("_method", "delete")
	u, err := url.Parse(p.do(http.MethodPost, "/oauth/authorize", form).location)
	if err != nil || u.Query().Get("error") != "access_denied" || u.Query().Get("state") != "st&te" || u.Query().Has("code") {
		t.Errorf("Deny goes to %v", u)
	}
	form.Set("authenticity_token", "forged")
	equal(t, "a forged form", p.do(http.MethodPost, "/oauth/authorize", form).status, http.StatusUnprocessableEntity)
}

// TestSession: whoever is signed in is not asked again, until they sign out; what was wanted first is shown after signing in.
func TestSession(t *testing.T) {
	f := newFixture(t, nil)
	p := f.person()
	want := strings.TrimPrefix(f.authorizeURL(nil), f.URL())
	form := p.do(http.MethodGet, want, nil)
	if !signsIn.MatchString(form.body) {
		t.Fatalf("no login form:\n%s", form.body)
	}
	if shown := p.signIn(form); !agrees.MatchString(shown.body) {
		t.Errorf("after signing in:\n%s", shown.body)
	}
	if shown := p.do(http.MethodGet, want, nil); !agrees.MatchString(shown.body) {
		t.Errorf("asked to sign in again:\n%s", shown.body)
	}
	home := p.do(http.MethodGet, "/", nil)
	if !strings.Contains(home.body, "Signed in as alice") {
		t.Errorf("home:\n%s", home.body)
	}
	equal(t, "a forged sign-out", p.do(http.MethodPost, "/users/sign_out", url.Values{"authenticity_token": {"x"}}).status, http.StatusUnprocessableEntity)
	if shown := p.do(http.MethodPost, "/users/sign_out", fields(home.body)); !signsIn.MatchString(shown.body) {
		t.Errorf("after signing out:\n%s", shown.body)
	}
	if shown := p.do(http.MethodGet, want, nil); !signsIn.MatchString(shown.body) {
		t.Errorf("still signed in:\n%s", shown.body)
	}
}

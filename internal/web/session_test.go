package web_test

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
)

func (b *browser) cookie(name string) *http.Cookie {
	site, _ := url.Parse(b.f.page.URL)
	for _, c := range b.Jar.Cookies(site) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// put gives the browser a cookie.
func (b *browser) put(name, value string) {
	site, _ := url.Parse(b.f.page.URL)
	b.Jar.SetCookies(site, []*http.Cookie{{Name: name, Value: value, Path: "/", Secure: true}})
}

func signedIn(t *testing.T, f *fixture) *browser {
	t.Helper()
	b := f.browser()
	if a := b.signIn("/namespaces", "alice", "alice-pw"); a.status != http.StatusSeeOther {
		t.Fatalf("sign-in: %d %s", a.status, a.body)
	}
	return b
}

// TestCookies: what a browser keeps is for this host, over TLS, out of the reach of scripts, and unreadable.
func TestCookies(t *testing.T) {
	f := newFixture(t, nil)
	b := f.browser()
	lines := b.get("/signin").header.Values("Set-Cookie")
	lines = append(lines, b.get(b.begin("alice").String()).header.Values("Set-Cookie")...)
	lines = append(lines, b.get("/language/de").header.Values("Set-Cookie")...)
	names := map[string]bool{}
	for _, line := range lines {
		c, err := http.ParseSetCookie(line)
		if err != nil {
			t.Fatal(err)
		}
		names[c.Name] = true
		if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || len(line) > 4096 {
			t.Errorf("cookie: %s", line)
		}
		raw, _ := base64.RawURLEncoding.DecodeString(c.Value)
		if strings.Contains(string(raw), "alice") || strings.Contains(string(raw), "{") && strings.Contains(string(raw), "\"u\"") {
			t.Errorf("cookie %s can be read", c.Name)
		}
	}
	if len(names) != 3 {
		t.Errorf("cookies: %v", names)
	}
}

// TestLifetimes: a session ends two hours after its last use, and twelve hours after it began.
func TestLifetimes(t *testing.T) {
	f := newFixture(t, nil)
	b := signedIn(t, f)
	for at := time.Duration(0); at < 12*time.Hour-time.Hour; at += time.Hour {
		if a := b.get("/namespaces"); a.status != http.StatusOK {
			t.Fatalf("after %v of use: %d", at, a.status)
		}
		f.clock.add(time.Hour)
	}
	if a := b.get("/namespaces"); a.status != http.StatusOK {
		t.Errorf("after eleven hours: %d", a.status)
	}
	f.clock.add(time.Hour + time.Second)
	if a := b.get("/namespaces?q=x"); a.status != http.StatusUnauthorized || !strings.Contains(a.body, "Your session has ended") || !strings.Contains(a.body, "/signin?to=%2fnamespaces%3fq%3dx") {
		t.Errorf("after twelve hours: %d %s", a.status, a.body)
	}
	idle := signedIn(t, f)
	f.clock.add(2*time.Hour - time.Second)
	if a := idle.get("/namespaces"); a.status != http.StatusOK {
		t.Errorf("just in time: %d", a.status)
	}
	f.clock.add(2*time.Hour + time.Second)
	old := idle.cookie("__Host-session").Value
	if a := idle.get("/namespaces"); a.status != http.StatusUnauthorized {
		t.Errorf("too long without use: %d", a.status)
	}
	idle.put("__Host-session", old) // the server decides, not the browser that forgets a cookie
	if a := idle.get("/namespaces"); a.status != http.StatusUnauthorized {
		t.Errorf("an old cookie: %d", a.status)
	}
}

// TestNewKey: with the key before on the second line nobody is signed out by a new one; without it everybody is. Sessions of
// before are sealed anew with the new one as they are used.
func TestNewKey(t *testing.T) {
	f := newFixture(t, nil)
	b, idle := signedIn(t, f), signedIn(t, f)
	first, second := f.keys, newKey()
	f.set(func() { f.keys = second + "\n" + first + "\n" })
	f.clock.add(6 * time.Minute)
	if a := b.get("/namespaces"); a.status != http.StatusOK {
		t.Errorf("both keys: %d", a.status)
	}
	f.set(func() { f.keys = second })
	if a := b.get("/namespaces"); a.status != http.StatusOK {
		t.Errorf("used under both: %d", a.status)
	}
	if a := idle.get("/namespaces"); a.status != http.StatusUnauthorized {
		t.Errorf("not used meanwhile: %d", a.status)
	}
	f.set(func() { f.keys = "" })
	if a := b.get("/namespaces"); a.status != http.StatusInternalServerError || strings.Contains(a.body, "haw-world") {
		t.Errorf("no key: %d", a.status)
	}
	if a := f.browser().get("/"); a.status != http.StatusOK {
		t.Errorf("the first page needs no key: %d", a.status)
	}
}

// TestForgedSessions: nothing but what was sealed as a session is one.
func TestForgedSessions(t *testing.T) {
	f := newFixture(t, nil)
	b := signedIn(t, f)
	good := b.cookie("__Host-session").Value
	started := f.browser()
	started.get("/signin")
	forged := []string{"", "x", good + "A", good[1:], started.cookie("__Host-signin").Value, base64.RawURLEncoding.EncodeToString([]byte(`{"u":41,"c":"x"}`))}
	for i := 0; i < len(good); i += 7 {
		forged = append(forged, good[:i]+string(good[i]^1)+good[i+1:])
	}
	for _, v := range forged {
		b := f.browser()
		b.put("__Host-session", v)
		if a := b.get("/namespaces"); a.status != http.StatusUnauthorized {
			t.Errorf("%q: %d", v, a.status)
		}
	}
	b = f.browser() // and no session is the other half of a sign-in
	b.put("__Host-signin", good)
	if a := b.get("/signin/callback?state=&code=x"); a.status != http.StatusBadRequest {
		t.Errorf("a session as a sign-in: %d", a.status)
	}
}

// TestParseKeys: one key or two, whole.
func TestParseKeys(t *testing.T) {
	a, b := newKey(), newKey()
	for text, want := range map[string]int{
		a: 1, a + "\n": 1, a + "\n" + b + "\n": 2, "  " + a + "\r\n" + b: 2,
		"": 0, a + "\n" + b + "\n" + newKey(): 0, a[:40]: 0, "secret": 0, a + "\nx": 0, base64.StdEncoding.EncodeToString(make([]byte, 16)): 0,
	} {
		keys, err := web.ParseKeys([]byte(text))
		if len(keys) != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d keys, %v", text, len(keys), err)
		}
		if err != nil && text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error holds the key: %v", err)
		}
	}
}

// TestForms: a form counts only if a page of this site sent it in this session. Nothing else signs anybody out.
func TestForms(t *testing.T) {
	f := newFixture(t, nil)
	b, other := signedIn(t, f), signedIn(t, f)
	b.get("/namespaces")
	other.get("/namespaces")
	form := func(token string) url.Values { return url.Values{"csrf": {token}} }
	for name, a := range map[string]answer{
		"no token":          b.do(http.MethodPost, "/signout", url.Values{}),
		"another session's": b.do(http.MethodPost, "/signout", form(other.csrf)),
		"in the address":    b.do(http.MethodPost, "/signout?csrf="+b.csrf, url.Values{}),
		"another site":      b.do(http.MethodPost, "/signout", form(b.csrf), "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example.com"),
		"another port":      b.do(http.MethodPost, "/signout", form(b.csrf), "Sec-Fetch-Site", "same-site", "Origin", "https://127.0.0.1:1"),
		"an old browser":    b.do(http.MethodPost, "/signout", form(b.csrf), "Origin", "https://evil.example.com"),
		"JSON":              b.do(http.MethodPost, "/signout", form(b.csrf), "Content-Type", "application/json"),
	} {
		if a.status != http.StatusForbidden || a.location != "" || len(a.header.Values("Set-Cookie")) > 0 {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
	}
	if a := b.do(http.MethodPost, "/signout", url.Values{"csrf": {b.csrf}, "x": {strings.Repeat("x", 70_000)}}); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %d", a.status)
	}
	if a := b.get("/signout"); a.status != http.StatusNotFound {
		t.Errorf("by a link: %d", a.status)
	}
	if a := b.get("/namespaces"); a.status != http.StatusOK {
		t.Fatalf("signed out: %d", a.status)
	}
	if a := b.do(http.MethodPost, "/signout", form(b.csrf), "Sec-Fetch-Site", "same-origin", "Origin", f.page.URL); a.status != http.StatusSeeOther {
		t.Errorf("by the page: %d", a.status)
	}
	if a := f.browser().do(http.MethodPost, "/signout", form("x")); a.status != http.StatusUnauthorized {
		t.Errorf("without a session: %d", a.status)
	}
}

// TestSessionsAreOfOneInstallation: a cookie opens no page of another address, GitLab or application, though they have the same key:
// there the number of a person is somebody else's.
func TestSessionsAreOfOneInstallation(t *testing.T) {
	var own web.Options
	f := newFixture(t, func(o *web.Options) { own = *o })
	c := signedIn(t, f).cookie("__Host-session")
	for what, change := range map[string]func(*web.Options){
		"the same":            func(*web.Options) {},
		"another address":     func(o *web.Options) { o.URL = "https://other.example.com" },
		"another GitLab":      func(o *web.Options) { o.GitLabURL = "https://gitlab.other.example.com" },
		"another application": func(o *web.Options) { o.ClientID = "other" },
	} {
		o := own
		change(&o)
		site, err := web.New(o)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, o.URL+"/namespaces", nil)
		r.AddCookie(c)
		w := httptest.NewRecorder()
		site.ServeHTTP(w, r)
		if want := map[bool]int{true: http.StatusOK, false: http.StatusUnauthorized}[what == "the same"]; w.Code != want {
			t.Errorf("%s: %d, want %d", what, w.Code, want)
		}
	}
}

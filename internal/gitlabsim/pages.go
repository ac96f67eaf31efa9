package gitlabsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html"
	"html/template"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
)

var loginPage = template.Must(template.New("login").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in · GitLab (simulated)</title></head><body>
<main><h1>GitLab (simulated)</h1>
{{with .Problem}}<p role="alert">{{.}}</p>{{end}}
<form action="/users/sign_in" method="post">
<input type="hidden" name="authenticity_token" value="{{.Token}}">
<p><label for="user_login">Username or primary email</label> <input id="user_login" name="user[login]" autocomplete="username" autofocus required></p>
<p><label for="user_password">Password</label> <input id="user_password" name="user[password]" type="password" autocomplete="current-password" required></p>
<p><input type="hidden" name="user[remember_me]" value="0"><label><input type="checkbox" name="user[remember_me]" value="1"> Remember me</label></p>
<p><button type="submit">Sign in</button></p>
</form></main></body></html>
`))

var homePage = template.Must(template.New("home").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>GitLab (simulated)</title></head><body>
<main><h1>GitLab (simulated)</h1><p>Signed in as {{.Name}}</p>
<form action="/users/sign_out" method="post"><input type="hidden" name="authenticity_token" value="{{.Token}}"><button type="submit">Sign out</button></form></main></body></html>
`))

// consentPage has the forms and fields of GitLab's (app/views/doorkeeper/authorizations/new.html.haml).
var consentPage = template.Must(template.New("consent").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Authorize · GitLab (simulated)</title></head><body>
<main><h1>Authorize {{.Name}} to use your account?</h1>
{{if .Admin}}<p>You are an admin, which means granting access to <strong>{{.Name}}</strong> will allow them to interact with GitLab as an admin as well.</p>{{end}}
<form action="/oauth/authorize" method="post">
<input type="hidden" name="_method" value="delete"><input type="hidden" name="authenticity_token" value="{{.Token}}">
{{range .Fields}}<input type="hidden" name="{{index . 0}}" value="{{index . 1}}">
{{end}}<button type="submit">Deny</button>
</form>
<form id="authorize" action="/oauth/authorize" method="post">
<input type="hidden" name="authenticity_token" value="{{.Token}}">
{{range .Fields}}<input type="hidden" name="{{index . 0}}" value="{{index . 1}}">
{{end}}<button type="submit" id="commit-changes">Authorize</button>
</form></main></body></html>
`))

// redirectPage is what GitLab shows instead of a redirect (app/views/doorkeeper/authorizations/redirect.html.haml).
var redirectPage = template.Must(template.New("redirect").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Redirecting · GitLab (simulated)</title></head><body>
<main><h1>Redirecting</h1><p><a href="{{.To}}">Click here to redirect to {{.To}}</a></p></main>
<script nonce="{{.Nonce}}">window.location = {{.To}};</script></body></html>
`))

var problemPage = template.Must(template.New("problem").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>GitLab (simulated)</title></head><body>
<h1>{{.Status}}</h1><p role="alert">{{.Text}}</p></body></html>
`))

var codePage = template.Must(template.New("code").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>GitLab (simulated)</title></head><body>
<h1>Authorization code:</h1><p><code id="authorization_code">{{.}}</code></p></body></html>
`))

func errorPage(w http.ResponseWriter, status int, text string) {
	page(w, status, problemPage, struct{ Status, Text string }{http.StatusText(status), text})
}

func page(w http.ResponseWriter, status int, t *template.Template, data any) {
	write(w, status, t, data, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
}

// scriptPage is a page whose script goes on to an address.
func scriptPage(w http.ResponseWriter, t *template.Template, to string) {
	nonce := randomHex(16)
	// The scheme of a redirect URI may be anything but a script's (forbid_redirect_uri); urn: has a page of its own.
	write(w, http.StatusOK, t, struct {
		To    template.URL
		Nonce string
	}{template.URL(to), nonce}, "default-src 'none'; script-src 'nonce-"+nonce+"'; frame-ancestors 'none'")
}

func write(w http.ResponseWriter, status int, t *template.Template, data any, policy string) {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		http.Error(w, "500", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

var (
	field     = regexp.MustCompile(`<input[^>]*\bname="([^"]*)"[^>]*\bvalue="([^"]*)"`)
	alert     = regexp.MustCompile(`<p role="alert">([^<]*)</p>`)
	shownCode = regexp.MustCompile(`<code id="authorization_code">([^<]*)</code>`)
	goesOn    = regexp.MustCompile(`<a href="([^"]*)">Click here to redirect to `)
	signsIn   = regexp.MustCompile(`(?s)<form action="/users/sign_in".*?</form>`)
	agrees    = regexp.MustCompile(`(?s)<form id="authorize".*?</form>`)
)

// fields are those that a form has filled in already.
func fields(form string) url.Values {
	out := url.Values{}
	for _, m := range field.FindAllStringSubmatch(form, -1) {
		out.Set(html.UnescapeString(m[1]), html.UnescapeString(m[2]))
	}
	return out
}

// Login plays the browser: it opens an authorization URL, fills in the login form, agrees to what GitLab asks, and
// returns the redirect to the client's callback, without following it; or the address of the page that shows the code,
// where the client has no callback (redirect URI urn:ietf:wg:oauth:2.0:oob). client must trust the server's CA (see
// Server.Client); its cookies are not used.
func Login(ctx context.Context, client *http.Client, authorizeURL, username, password string) (callback string, err error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return "", fmt.Errorf("making a cookie jar: %w", err)
	}
	base, err := url.Parse(authorizeURL)
	if err != nil {
		return "", fmt.Errorf("reading the authorization URL: %w", err)
	}
	browser := &http.Client{
		Transport: client.Transport, Timeout: client.Timeout, Jar: jar,
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if r.URL.Host != base.Host {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	origin := base.Scheme + "://" + base.Host
	res, err := fetch(ctx, browser, http.MethodGet, authorizeURL, nil)
	for step := 0; err == nil && step < 3; step++ { // the login form, the consent page, what comes after it
		form := signsIn.FindString(res.body)
		switch {
		case res.location != "":
			return res.location, nil
		case shownCode.MatchString(res.body): // the page for a client that no browser can reach
			code := html.UnescapeString(shownCode.FindStringSubmatch(res.body)[1])
			return nativePage + "?" + url.Values{"code": {code}}.Encode(), nil
		case goesOn.MatchString(res.body):
			return html.UnescapeString(goesOn.FindStringSubmatch(res.body)[1]), nil
		case agrees.MatchString(res.body):
			res, err = fetch(ctx, browser, http.MethodPost, origin+"/oauth/authorize", fields(agrees.FindString(res.body)))
		case form != "" && step == 0:
			filled := fields(form)
			filled.Set("user[login]", username)
			filled.Set("user[password]", password)
			res, err = fetch(ctx, browser, http.MethodPost, origin+"/users/sign_in", filled)
		default:
			return "", fmt.Errorf("logging in as %q: GitLab answers %d: %s", username, res.status, res.alert())
		}
	}
	if err != nil {
		return "", err
	}
	if res.location != "" {
		return res.location, nil
	}
	return "", fmt.Errorf("logging in as %q: GitLab's pages have no end: %d: %s", username, res.status, res.alert())
}

type fetched struct {
	status         int
	location, body string
}

func (f fetched) alert() string {
	if m := alert.FindStringSubmatch(f.body); m != nil {
		return html.UnescapeString(m[1])
	}
	return "no explanation"
}

func fetch(ctx context.Context, client *http.Client, method, target string, form url.Values) (fetched, error) {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return fetched{}, fmt.Errorf("preparing a request: %w", err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	res, err := client.Do(req)
	if err != nil {
		return fetched{}, fmt.Errorf("logging in: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fetched{}, errors.Join(errors.New("reading GitLab's page"), err)
	}
	return fetched{status: res.StatusCode, location: res.Header.Get("Location"), body: string(b)}, nil
}

// Browse is the whole browser of a login by kubelogin: it opens kubelogin's local address, is sent to GitLab,
// logs in, and delivers the code to kubelogin's callback.
func Browse(ctx context.Context, client *http.Client, startURL, username, password string) error {
	single := &http.Client{
		Transport: client.Transport, Timeout: client.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := fetch(ctx, single, http.MethodGet, startURL, nil)
	if err != nil {
		return err
	}
	if res.location == "" {
		return fmt.Errorf("opening %s: status %d and no redirect to GitLab", startURL, res.status)
	}
	callback, err := Login(ctx, client, res.location, username, password)
	if err != nil {
		return err
	}
	if res, err = fetch(ctx, single, http.MethodGet, callback, nil); err != nil {
		return err
	}
	if res.status >= http.StatusBadRequest {
		return fmt.Errorf("delivering the code: status %d", res.status)
	}
	return nil
}

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
<h1>GitLab (simulated)</h1>
{{with .Problem}}<p role="alert">{{.}}</p>{{end}}
<form action="/users/sign_in" method="post">
<input type="hidden" name="authenticity_token" value="{{.Token}}">
<input type="hidden" name="return_to" value="{{.ReturnTo}}">
<p><label>Username <input name="user[login]" autocomplete="username" autofocus></label></p>
<p><label>Password <input name="user[password]" type="password" autocomplete="current-password"></label></p>
<p><button type="submit">Sign in</button></p>
</form></body></html>
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
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		http.Error(w, "500", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

var (
	csrfField   = regexp.MustCompile(`name="authenticity_token" value="([0-9a-f]+)"`)
	returnField = regexp.MustCompile(`name="return_to" value="([^"]*)"`)
	alert       = regexp.MustCompile(`<p role="alert">([^<]*)</p>`)
	shownCode   = regexp.MustCompile(`<code id="authorization_code">([^<]*)</code>`)
)

// Login plays the browser: it opens an authorization URL, fills in the login form and returns the redirect to
// the client's callback, without following it; or the address of the page that shows the code, where the client has
// no callback (redirect URI urn:ietf:wg:oauth:2.0:oob). client must trust the server's CA (see Server.Client); its
// cookies are not used.
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
	res, err := fetch(ctx, browser, http.MethodGet, authorizeURL, nil)
	if err != nil {
		return "", err
	}
	if res.location != "" {
		return res.location, nil
	}
	token, returnTo := csrfField.FindStringSubmatch(res.body), returnField.FindStringSubmatch(res.body)
	if token == nil || returnTo == nil {
		return "", fmt.Errorf("opening the login form: GitLab answers %d: %s", res.status, res.alert())
	}
	form := url.Values{
		"authenticity_token": {token[1]}, "return_to": {html.UnescapeString(returnTo[1])},
		"user[login]": {username}, "user[password]": {password},
	}
	res, err = fetch(ctx, browser, http.MethodPost, base.Scheme+"://"+base.Host+"/users/sign_in", form)
	if err != nil {
		return "", err
	}
	if m := shownCode.FindStringSubmatch(res.body); m != nil { // the page for a client that no browser can reach
		return nativePage + "?" + url.Values{"code": {html.UnescapeString(m[1])}}.Encode(), nil
	}
	if res.location == "" {
		return "", fmt.Errorf("logging in as %q: GitLab answers %d: %s", username, res.status, res.alert())
	}
	return res.location, nil
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

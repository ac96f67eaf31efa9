package demo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientauthv1 "k8s.io/client-go/pkg/apis/clientauthentication/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
)

// clientID is the application id of kubelogin in the simulated GitLab (world.yaml).
const clientID = "kubelogin-demo"

// loginTimeout bounds one login, the "browser" included.
const loginTimeout = 20 * time.Second

// Login gets an ID token for a simulated person the way kubelogin does it: authorization code with PKCE (S256),
// state and nonce, a redirect to a port of this machine. The browser's part, the login form, is filled in here.
// client must trust GitLab's certificate.
func Login(ctx context.Context, client *http.Client, issuer, username, password string) (idToken string, err error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, client), loginTimeout)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return "", fmt.Errorf("reading GitLab's OpenID configuration: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listening for the redirect: %w", err)
	}
	conf := oauth2.Config{
		ClientID:    clientID,
		Endpoint:    provider.Endpoint(),
		RedirectURL: "http://" + listener.Addr().String(),
		Scopes:      []string{oidc.ScopeOpenID},
	}
	conf.Endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has no secret to authenticate with
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()

	callback := make(chan url.Values, 1)
	server := &http.Server{ReadHeaderTimeout: loginTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "You can close this window.\n")
		select {
		case callback <- r.URL.Query():
		default: // a second redirect changes nothing
		}
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		err = errors.Join(err, server.Close())
		<-served
	}()

	page := conf.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	if err := browse(ctx, client, page, username, password); err != nil {
		return "", err
	}
	var answer url.Values
	select {
	case answer = <-callback:
	case <-ctx.Done():
		return "", fmt.Errorf("waiting for GitLab's redirect: %w", ctx.Err())
	}
	if answer.Get("state") != state {
		return "", errors.New("the redirect has another state than the request: this login is not ours")
	}
	if e := answer.Get("error"); e != "" {
		return "", fmt.Errorf("GitLab refused the login: %s: %s", e, answer.Get("error_description"))
	}
	token, err := conf.Exchange(ctx, answer.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		return "", fmt.Errorf("exchanging the authorization code: %w", err)
	}
	raw, _ := token.Extra("id_token").(string)
	verified, err := provider.Verifier(&oidc.Config{ClientID: clientID}).Verify(ctx, raw)
	if err != nil {
		return "", fmt.Errorf("verifying the ID token: %w", err)
	}
	if verified.Nonce != nonce {
		return "", errors.New("the ID token has another nonce than the request: it belongs to another login")
	}
	return raw, nil
}

var (
	formAction = regexp.MustCompile(`<form[^>]*\saction="([^"]*)"`)
	inputTag   = regexp.MustCompile(`<input[^>]*>`)
	attribute  = regexp.MustCompile(`(name|value|type)="([^"]*)"`)
)

// browse does what a person does in the browser: it opens the page, fills in the login form and follows the
// redirect to the waiting port.
func browse(ctx context.Context, client *http.Client, page, username, password string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	browser := &http.Client{Transport: client.Transport, Jar: jar, Timeout: loginTimeout}
	body, at, err := fetch(ctx, browser, http.MethodGet, page, nil)
	if err != nil {
		return fmt.Errorf("opening GitLab's login page: %w", err)
	}
	form := url.Values{}
	for _, tag := range inputTag.FindAllString(body, -1) {
		field := map[string]string{}
		for _, a := range attribute.FindAllStringSubmatch(tag, -1) {
			field[a[1]] = html.UnescapeString(a[2])
		}
		switch name := field["name"]; {
		case field["type"] == "password":
			form.Set(name, password)
		case field["type"] == "text":
			form.Set(name, username)
		case name != "":
			form.Set(name, field["value"])
		}
	}
	action := formAction.FindStringSubmatch(body)
	if action == nil {
		return fmt.Errorf("GitLab's login page has no form: %.200s", body)
	}
	target, err := at.Parse(html.UnescapeString(action[1]))
	if err != nil {
		return fmt.Errorf("reading the login form's target: %w", err)
	}
	if body, at, err = fetch(ctx, browser, http.MethodPost, target.String(), strings.NewReader(form.Encode())); err != nil {
		return fmt.Errorf("sending the login form: %w", err)
	}
	if !strings.HasPrefix(at.Host, "127.0.0.1") || strings.Contains(body, "<form") {
		return fmt.Errorf("GitLab did not let %s in", username)
	}
	return nil
}

// fetch follows redirects and returns the last page and its address.
func fetch(ctx context.Context, client *http.Client, method, address string, body io.Reader) (string, *url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return "", nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // the body was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(text), resp.Request.URL, err
}

// PrintCredential logs in and prints an ExecCredential, as kubectl expects it from an exec plugin.
func PrintCredential(ctx context.Context, out io.Writer, issuer, caFile, username, password string) error {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return fmt.Errorf("reading the CA of the simulated GitLab: %w", err)
	}
	client, err := gitlab.NewHTTPClient(pem, loginTimeout)
	if err != nil {
		return err
	}
	token, err := Login(ctx, client, issuer, username, password)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(clientauthv1.ExecCredential{
		TypeMeta: metav1.TypeMeta{APIVersion: clientauthv1.SchemeGroupVersion.String(), Kind: "ExecCredential"},
		Status:   &clientauthv1.ExecCredentialStatus{Token: token},
	})
}

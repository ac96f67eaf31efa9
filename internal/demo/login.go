package demo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientauthv1 "k8s.io/client-go/pkg/apis/clientauthentication/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// clientID is the application id of kubelogin in the simulated GitLab (world.yaml).
const clientID = "kubelogin-demo"

// loginTimeout bounds one login, the "browser" included.
const loginTimeout = 20 * time.Second

// Login gets an ID token for a simulated person the way kubelogin does it: authorization code with PKCE (S256),
// state and nonce. The browser's part, the login form, is played by the simulator.
// client must trust GitLab's certificate.
func Login(ctx context.Context, client *http.Client, issuer, username, password string) (idToken string, err error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, client), loginTimeout)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, issuer)
	if err != nil {
		return "", fmt.Errorf("reading GitLab's OpenID configuration: %w", err)
	}
	conf := oauth2.Config{ClientID: clientID, Endpoint: provider.Endpoint(), RedirectURL: "http://localhost:8000", Scopes: []string{oidc.ScopeOpenID}}
	conf.Endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has no secret to authenticate with
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	page := conf.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	// The simulated browser hands over the redirect instead of following it, so no port has to be free.
	callback, err := gitlabsim.Login(ctx, client, page, username, password)
	if err != nil {
		return "", fmt.Errorf("logging in on GitLab's page: %w", err)
	}
	redirect, err := url.Parse(callback)
	if err != nil {
		return "", fmt.Errorf("reading GitLab's redirect: %w", err)
	}
	answer := redirect.Query()
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

package doctor

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
)

// certificates looks at the files; those that can't be read are reported elsewhere.
func (c *collector) certificates() {
	for what, path := range c.Files {
		if path == "" {
			continue
		}
		if data, err := os.ReadFile(path); err == nil {
			c.pem(what+" "+path, data)
		}
	}
}

// pem notes the certificate of a server or client, which is the first, and of several CAs the one that ends last: the others
// may be old ones that are on their way out.
func (c *collector) pem(what string, data []byte) {
	var chosen *x509.Certificate
	for len(data) > 0 {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		if chosen == nil || (chosen.IsCA && cert.NotAfter.After(chosen.NotAfter)) {
			chosen = cert
		}
	}
	if chosen != nil {
		c.certificate(what, chosen)
	}
}

// probe is a token that every integrator of this GitLab refuses with a code of its own, before it asks anybody for anything.
// It is not signed, and no program takes it for anything else.
func probe(issuer, audience string) string {
	part := func(v any) string {
		b, _ := json.Marshal(v) //nolint:errchkjson // strings and numbers
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]string{"alg": "RS256", "typ": probeType, "kid": probeType}) + "." +
		part(map[string]any{"iss": issuer, "aud": audience, "sub": "0", "exp": time.Unix(1, 0).Unix()}) + "." + part(probeType)
}

const probeType = "gl-k8s-integrator-doctor"

// probeCode is how the integrator refuses the probe.
const probeCode = authn.CodeWrongTokenType

func (c *collector) probe() string {
	audience := ""
	if len(c.Config.Authn.ClientIDs) > 0 {
		audience = c.Config.Authn.ClientIDs[0]
	}
	return probe(c.Config.GitLab.URL, audience)
}

// fileLook looks at the files of kube-apiserver.
type fileLook struct{ *collector }

// all looks at what kube-apiserver is started with, and reaches the webhooks as it does.
func (c fileLook) all(ctx context.Context) {
	if c.Config == nil {
		return
	}
	if c.APIServerFlags != "" {
		if given, err := readFlags(c.APIServerFlags); err != nil {
			c.facts.GivenUnfit = c.APIServerFlags + ": " + strings.TrimPrefix(err.Error(), "open "+c.APIServerFlags+": ")
		} else {
			c.facts.Given = &given
		}
	}
	if c.AuthnConfig != "" {
		c.judges(ctx)
	} else if c.Config.Authn.Disabled {
		c.skip("the file of --authentication-config", "it is not given", "--authn-config FILE")
	}
	if c.AuthnKubeconfig == "" && c.Config.Authn.Disabled {
		// logins come here by no webhook
	} else if c.AuthnKubeconfig == "" {
		c.skip("the kubeconfig of --authentication-token-webhook-config-file", "it is not given", "--authn-kubeconfig FILE")
	} else {
		c.facts.Authn = c.webhook(ctx, c.AuthnKubeconfig, &authenticationv1.TokenReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"}, Spec: authenticationv1.TokenReviewSpec{Token: c.probe()},
		})
	}
	if c.AuthzConfig == "" {
		c.skip("the file of --authorization-config", "it is not given", "--authz-config FILE")
		return
	}
	c.authorizers(ctx)
}

// webhook reaches a webhook as kube-apiserver would.
func (c fileLook) webhook(ctx context.Context, file string, review any) Webhook {
	w := Webhook{File: file}
	rc, err := readKubeconfig(file)
	if err != nil {
		w.Unfit = err.Error()
		return w
	}
	w.URL = rc.Host
	if u, err := url.Parse(rc.Host); err == nil {
		w.Path = u.Path
	}
	c.pem(file+": certificate-authority", rc.CAData)
	c.pem(file+": client-certificate", rc.CertData)
	if !strings.HasPrefix(w.URL, "https://") { // what is sent is judged by nobody
		return w
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	for range 3 {
		if w.Fault, w.Text, w.Code = c.post(ctx, rc, review); !cut(w.Text) {
			break
		}
	}
	return w
}

// post sends a review, and says what came of it.
func (c fileLook) post(ctx context.Context, rc *rest.Config, review any) (Fault, string, string) {
	client, err := rest.HTTPClientFor(rc)
	if err != nil {
		return Odd, err.Error(), ""
	}
	defer client.CloseIdleConnections()
	body, _ := json.Marshal(review) //nolint:errchkjson // our own
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, rc.Host, bytes.NewReader(body))
	if err != nil {
		return Odd, err.Error(), ""
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return faultOf(err), err.Error(), ""
	}
	defer resp.Body.Close()
	c.served(rc.Host, resp.TLS)
	var answer struct {
		Kind   string `json:"kind"`
		Status *struct {
			Error string `json:"error"`
		} `json:"status"`
	}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody)) // a short one is not JSON
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return Path, "it answers " + resp.Status, ""
	case resp.StatusCode != http.StatusOK:
		return Odd, "it answers " + resp.Status, ""
	case json.Unmarshal(data, &answer) != nil || answer.Status == nil:
		return Odd, "it answers something else than a review", ""
	case answer.Kind == "TokenReview" && answer.Status.Error == "":
		return Foreign, "it takes a token of this GitLab for somebody else's", ""
	case answer.Kind == "TokenReview" && !strings.HasPrefix(answer.Status.Error, string(probeCode)):
		return Odd, "it answers the code " + code(answer.Status.Error), code(answer.Status.Error)
	}
	return None, "", code(answer.Status.Error)
}

func code(text string) string { before, _, _ := strings.Cut(text, ":"); return before }

// readKubeconfig reads a kubeconfig with all that it names. Files that are not where it says are looked for beside it: it may be
// a copy from a control-plane node.
func readKubeconfig(file string) (*rest.Config, error) {
	raw, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return nil, err
	}
	beside := func(path *string) {
		if *path == "" {
			return
		}
		near := filepath.Join(filepath.Dir(file), filepath.Base(*path))
		if !filepath.IsAbs(*path) {
			*path = filepath.Join(filepath.Dir(file), *path)
		}
		if _, err := os.Stat(*path); err != nil {
			if _, err := os.Stat(near); err == nil {
				*path = near
			}
		}
	}
	for _, k := range raw.Clusters {
		beside(&k.CertificateAuthority)
	}
	for _, u := range raw.AuthInfos {
		beside(&u.ClientCertificate)
		beside(&u.ClientKey)
	}
	rc, err := clientcmd.NewDefaultClientConfig(*raw, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, err
	}
	return rc, rest.LoadTLSFiles(rc)
}

// authorizers reads the AuthorizationConfiguration. Which webhook is ours, its kubeconfig tells: by path, or because there is
// no other.
func (c fileLook) authorizers(ctx context.Context) {
	a := &c.facts.Authorizers
	a.File = c.AuthzConfig
	data, err := os.ReadFile(a.File)
	if err != nil {
		a.Unfit = err.Error()
		return
	}
	var doc struct {
		Kind        string `json:"kind"`
		Authorizers []struct {
			Type    string `json:"type"`
			Webhook *struct {
				Timeout       metav1.Duration `json:"timeout"`
				FailurePolicy string          `json:"failurePolicy"`
				Version       string          `json:"subjectAccessReviewVersion"`
				MatchVersion  string          `json:"matchConditionSubjectAccessReviewVersion"`
				Kept          metav1.Duration `json:"unauthorizedTTL"`
				Connection    struct {
					File string `json:"kubeConfigFile"`
				} `json:"connectionInfo"`
				Conditions []any `json:"matchConditions"`
			} `json:"webhook"`
		} `json:"authorizers"`
	}
	if err := yaml.Unmarshal(data, &doc); err != nil || doc.Kind != "AuthorizationConfiguration" {
		a.Unfit = fmt.Sprintf("it is no AuthorizationConfiguration: %v", errors.Join(err, fmt.Errorf("kind is %q", doc.Kind)))
		return
	}
	webhooks := 0
	for _, one := range doc.Authorizers {
		a.Types = append(a.Types, one.Type)
		if one.Type == "Webhook" {
			webhooks++
		}
	}
	for i, one := range doc.Authorizers {
		if one.Type != "Webhook" || one.Webhook == nil {
			continue
		}
		path := one.Webhook.Connection.File
		if _, err := os.Stat(path); err != nil {
			path = filepath.Join(filepath.Dir(a.File), filepath.Base(path))
		}
		rc, err := readKubeconfig(path)
		if webhooks > 1 && (err != nil || !strings.HasSuffix(rc.Host, authzPath)) {
			continue // another's
		}
		a.Ours, a.FailurePolicy, a.Conditions, a.Timeout = i, one.Webhook.FailurePolicy, len(one.Webhook.Conditions), one.Webhook.Timeout.Duration
		a.Version, a.MatchVersion, a.Kept = one.Webhook.Version, one.Webhook.MatchVersion, one.Webhook.Kept.Duration
		if errors.Is(err, os.ErrNotExist) {
			c.skip("the kubeconfig of the explaining webhook", err.Error(), "put a copy of it beside "+a.File)
			return
		}
		c.facts.Explain = c.webhook(ctx, path, &authorizationv1.SubjectAccessReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SubjectAccessReview"},
			Spec:     authorizationv1.SubjectAccessReviewSpec{User: probeType, NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/" + probeType, Verb: "get"}},
		})
		return
	}
}

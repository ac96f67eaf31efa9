package app

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/web"
)

// CheckNamedFiles reads every file that a configuration names, as serve would, and returns why it would not do. No error
// holds anything of a file's content.
func CheckNamedFiles(cfg *config.Config) error {
	var errs []error
	check := func(key, path string, judge func([]byte) error) {
		if path == "" {
			return
		}
		data, err := os.ReadFile(path)
		if err == nil {
			if err = judge(data); err != nil {
				err = fmt.Errorf("%s: %w", path, err)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	l := cfg.Listeners
	check("gitlab.caFile", cfg.GitLab.CAFile, holdsCertificates)
	check("gitlab.readTokenFile", cfg.GitLab.ReadTokenFile, holdsSecret)
	check("gitlab.writeTokenFile", cfg.GitLab.WriteTokenFile, holdsSecret)
	check("cluster.kubeconfig", cfg.Cluster.Kubeconfig, func(data []byte) error { _, err := clientcmd.RESTConfigFromKubeConfig(data); return err })
	check("cluster.publicCAFile", cfg.Cluster.PublicCAFile, holdsCertificates)
	check("listeners.webhooks.certFile", l.Webhooks.CertFile, holdsCertificates)
	check("listeners.webhooks.keyFile", l.Webhooks.KeyFile, pairOf(l.Webhooks.CertFile))
	check("listeners.webhooks.clientCAFile", l.Webhooks.ClientCAFile, holdsCertificates)
	check("listeners.hooks.certFile", l.Hooks.CertFile, holdsCertificates)
	check("listeners.hooks.keyFile", l.Hooks.KeyFile, pairOf(l.Hooks.CertFile))
	check("listeners.hooks.secretFile", l.Hooks.SecretFile, holdsSecret)
	check("listeners.hooks.signingKeyFile", l.Hooks.SigningKeyFile, holdsSigningKey)
	check("listeners.metrics.certFile", l.Metrics.CertFile, holdsCertificates)
	check("listeners.metrics.keyFile", l.Metrics.KeyFile, pairOf(l.Metrics.CertFile))
	check("listeners.metrics.tokenFile", l.Metrics.TokenFile, holdsSecret)
	check("listeners.web.certFile", l.Web.CertFile, holdsCertificates)
	check("listeners.web.keyFile", l.Web.KeyFile, pairOf(l.Web.CertFile))
	check("web.clientSecretFile", cfg.Web.ClientSecretFile, holdsSecret)
	check("web.sessionKeyFile", cfg.Web.SessionKeyFile, func(data []byte) error { _, err := web.ParseKeys(data); return err })
	check("authn.keys.file", cfg.Authn.Keys.File, holdsKeySet)
	return errors.Join(errs...)
}

func holdsCertificates(data []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(data) {
		return errors.New("it holds no PEM certificate")
	}
	return nil
}

// pairOf judges the key of a certificate. A fault of the certificate alone is reported for its own key.
func pairOf(certFile string) func([]byte) error {
	return func(key []byte) error {
		cert, err := os.ReadFile(certFile)
		if err != nil || holdsCertificates(cert) != nil {
			return nil //nolint:nilerr // see above
		}
		if _, err := tls.X509KeyPair(cert, key); err != nil {
			return fmt.Errorf("it is not the key of %s: %w", certFile, err)
		}
		return nil
	}
}

func holdsSecret(data []byte) error {
	if s := strings.TrimSpace(string(data)); s == "" || strings.ContainsAny(s, " \t\r\n") {
		return errors.New("it must hold the secret alone, on one line")
	}
	return nil
}

func holdsSigningKey(data []byte) error {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(data)), "whsec_"))
	if err != nil || len(raw) == 0 {
		return errors.New("it must hold GitLab's signing token alone: whsec_ and base64")
	}
	return nil
}

func holdsKeySet(data []byte) error {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(data, &set) != nil || len(set.Keys) == 0 {
		return errors.New("it holds no key set (JWKS) with keys")
	}
	return nil
}

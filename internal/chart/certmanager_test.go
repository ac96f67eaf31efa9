package chart_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

// certManager does what cert-manager does with the Certificates and Issuers of the namespace, by their documented meaning
// (cert-manager.io/docs/reference/api-docs): it makes the Secret of each. Issuers of the cluster are one authority.
type certManager struct {
	*world
	certificates map[string]certificate // by the name of their Secret
	issuers      map[string]issuer
	made         map[string]*corev1.Secret
	public       *corev1.Secret
}

type certificate struct {
	Metadata metav1.ObjectMeta
	Spec     struct {
		IsCA                  bool
		CommonName            string
		SecretName            string
		DNSNames, IPAddresses []string
		Usages                []string
		Duration              metav1.Duration
		IssuerRef             struct{ Name, Kind string }
	}
}

type issuer struct {
	Metadata metav1.ObjectMeta
	Spec     struct {
		SelfSigned *struct{}
		CA         *struct{ SecretName string }
	}
}

func (w *world) certManager(t *testing.T) map[string]*corev1.Secret {
	t.Helper()
	m := certManager{world: w, certificates: map[string]certificate{}, issuers: map[string]issuer{}, made: map[string]*corev1.Secret{}}
	var certificates struct{ Items []certificate }
	var issuers struct{ Items []issuer }
	for resource, into := range map[string]any{"certificates.cert-manager.io": &certificates, "issuers.cert-manager.io": &issuers} {
		out, err := w.kubectl(t, "", "get", resource, "--namespace", deploy.Namespace, "--output", "json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(out), into); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range issuers.Items {
		m.issuers[i.Metadata.Name] = i
	}
	for _, c := range certificates.Items {
		if _, twice := m.certificates[c.Spec.SecretName]; twice {
			t.Errorf("two Certificates make the Secret %s", c.Spec.SecretName)
		}
		m.certificates[c.Spec.SecretName] = c
	}
	m.public = m.sign(t, certificate{}, nil)
	for name := range m.certificates {
		m.secret(t, name)
	}
	return m.made
}

// secret returns the Secret of that name, which a Certificate makes.
func (m *certManager) secret(t *testing.T, name string) *corev1.Secret {
	t.Helper()
	if m.made[name] != nil {
		return m.made[name]
	}
	c, ok := m.certificates[name]
	if !ok {
		t.Fatalf("no Certificate makes the Secret %s", name)
	}
	by := m.public
	if c.Spec.IssuerRef.Kind == "Issuer" {
		i, ok := m.issuers[c.Spec.IssuerRef.Name]
		switch {
		case !ok:
			t.Fatalf("there is no Issuer %s", c.Spec.IssuerRef.Name)
		case i.Spec.SelfSigned != nil:
			by = nil
		default:
			by = m.secret(t, i.Spec.CA.SecretName)
		}
	}
	s := m.sign(t, c, by)
	if _, err := m.admin.CoreV1().Secrets(deploy.Namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	m.made[name] = s
	return s
}

// sign makes what a Certificate asks for; without an issuer it signs itself.
func (m *certManager) sign(t *testing.T, c certificate, by *corev1.Secret) *corev1.Secret {
	t.Helper()
	fail := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	fail(err)
	duration := c.Spec.Duration.Duration
	if duration == 0 {
		duration = 90 * 24 * time.Hour
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: c.Spec.CommonName}, DNSNames: c.Spec.DNSNames, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(duration), IsCA: c.Spec.IsCA || c.Spec.SecretName == "",
	}
	if template.IsCA {
		template.KeyUsage |= x509.KeyUsageCertSign
	}
	for _, ip := range c.Spec.IPAddresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	for _, u := range c.Spec.Usages {
		switch u {
		case "server auth":
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		case "client auth":
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		case "digital signature":
			template.KeyUsage |= x509.KeyUsageDigitalSignature
		default:
			t.Fatalf("the usage %q", u)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(err)
	parent, signer := template, any(key)
	if by != nil {
		pair, err := tls.X509KeyPair(by.Data["tls.crt"], by.Data["tls.key"])
		fail(err)
		parent, signer = pair.Leaf, pair.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	fail(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	fail(err)
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: c.Spec.SecretName}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{
			"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		},
	}
	s.Data["ca.crt"] = s.Data["tls.crt"]
	if by != nil {
		s.Data["ca.crt"] = by.Data["tls.crt"]
	}
	return s
}

// caller asks over TLS. What it is not given, it does not check or show: kubelet looks at no certificate.
type caller struct {
	ca, cert, key []byte
	name, token   string
}

// ask returns the status of the answer, or an error.
func (c caller) ask(t *testing.T, method, url, body string) (int, error) {
	t.Helper()
	verify := &tls.Config{ServerName: c.name, InsecureSkipVerify: c.ca == nil, RootCAs: x509.NewCertPool()}
	verify.RootCAs.AppendCertsFromPEM(c.ca)
	if c.cert != nil {
		pair, err := tls.X509KeyPair(c.cert, c.key)
		if err != nil {
			t.Fatal(err)
		}
		verify.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	transport := &http.Transport{TLSClientConfig: verify}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}

// asksWebhook asks as kube-apiserver does, with the files that the notes take out of the Secret; and as others must not.
func asksWebhook(t *testing.T, made map[string]*corev1.Secret, address, serviceIP string) {
	t.Helper()
	const review = `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x"}}`
	client, metrics := made["gl-k8s-integrator-apiserver-client"].Data, made["gl-k8s-integrator-metrics"].Data
	if !bytes.Equal(client["ca.crt"], made["gl-k8s-integrator-webhook-ca"].Data["tls.crt"]) {
		t.Error("kube-apiserver gets the certificate of another CA")
	}
	for who, c := range map[string]struct {
		caller
		ok bool
	}{
		"kube-apiserver":                       {caller{client["ca.crt"], client["tls.crt"], client["tls.key"], serviceIP, ""}, true},
		"somebody without certificate":         {caller{client["ca.crt"], nil, nil, serviceIP, ""}, false},
		"whoever has the metrics' certificate": {caller{client["ca.crt"], metrics["tls.crt"], metrics["tls.key"], serviceIP, ""}, false},
		"kube-apiserver by another address":    {caller{client["ca.crt"], client["tls.crt"], client["tls.key"], "10.96.0.54", ""}, false},
	} {
		if status, err := c.ask(t, http.MethodPost, "https://"+address+"/authenticate", review); (err == nil && status == http.StatusOK) != c.ok {
			t.Errorf("%s is answered %d, %v", who, status, err)
		}
	}
}

// asksMetrics asks as kubelet does by the pod's probes, and as Prometheus does by the ServiceMonitor.
func (w *world) asksMetrics(t *testing.T, address string) {
	t.Helper()
	rendered := objects(t, w.must(t, "get", "manifest", release))
	m, ok := monitorOf(t, rendered)
	if !ok {
		t.Fatal("the chart has no ServiceMonitor")
	}
	for path, list := range probes(podOf(t, rendered)) {
		for _, p := range list {
			url := strings.ToLower(string(p.Scheme)) + "://" + address + path
			if status, err := (caller{}).ask(t, http.MethodGet, url, ""); status != http.StatusOK {
				t.Errorf("kubelet's %s is answered %d, %v", url, status, err)
			}
		}
	}
	content := func(name, key string) string {
		t.Helper()
		s, err := w.admin.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || len(s.Data[key]) == 0 {
			t.Fatalf("Prometheus reads %s of the Secret %s: %v", key, name, err)
		}
		return string(s.Data[key])
	}
	ca := content(m.TLSConfig.CA.Secret.Name, m.TLSConfig.CA.Secret.Key)
	token := strings.TrimSpace(content(m.Authorization.Credentials.Name, m.Authorization.Credentials.Key))
	for show, want := range map[string]int{token: http.StatusOK, "": http.StatusUnauthorized, token + "x": http.StatusUnauthorized} {
		c := caller{ca: []byte(ca), name: m.TLSConfig.ServerName, token: show}
		if status, err := c.ask(t, http.MethodGet, m.Scheme+"://"+address+"/metrics", ""); status != want {
			t.Errorf("Prometheus with a token of %d bytes is answered %d, want %d: %v", len(show), status, want, err)
		}
	}
}

// mount does what the pod's volume does: it writes what Secrets and ConfigMap hold, as the pod sees it, into dir.
func (w *world) mount(t *testing.T, dir string) {
	t.Helper()
	pod := podOf(t, objects(t, w.must(t, "get", "manifest", release)))
	for _, source := range pod.Spec.Volumes[0].Projected.Sources {
		if source.ConfigMap != nil {
			cm, err := w.admin.CoreV1().ConfigMaps(deploy.Namespace).Get(t.Context(), source.ConfigMap.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for key, text := range cm.Data {
				write(t, filepath.Join(dir, key), text)
			}
			continue
		}
		s, err := w.admin.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), source.Secret.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		items := source.Secret.Items
		for key := range s.Data {
			if len(source.Secret.Items) == 0 {
				items = append(items, corev1.KeyToPath{Key: key, Path: key})
			}
		}
		for _, i := range items {
			if s.Data[i.Key] == nil {
				t.Fatalf("the Secret %s has no %s: no pod starts", s.Name, i.Key)
			}
			write(t, filepath.Join(dir, i.Path), string(s.Data[i.Key]))
		}
	}
}

package setup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

// Secrets that cert-manager makes, by the chart or by certificates.yaml.
const (
	issuedWebhooks = "gl-k8s-integrator-webhooks"
	issuedClient   = "gl-k8s-integrator-apiserver-client"
	issuedHooks    = "gl-k8s-integrator-hooks"
)

// issued are the objects that the chart has for cert-manager; a test compares them.
var issued = template.Must(template.New("certificates.yaml").Parse(`# A CA for kube-apiserver and the webhooks alone: who has its key can pose as either.
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  name: gl-k8s-integrator-self-signed
  namespace: gl-k8s-integrator
  labels: {app.kubernetes.io/name: gl-k8s-integrator}
spec:
  selfSigned: {}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: gl-k8s-integrator-webhook-ca
  namespace: gl-k8s-integrator
  labels: {app.kubernetes.io/name: gl-k8s-integrator}
spec:
  isCA: true
  commonName: gl-k8s-integrator-ca
  secretName: gl-k8s-integrator-webhook-ca
  duration: 87600h
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Never} # kube-apiserver has the certificate in a file
  issuerRef: {name: gl-k8s-integrator-self-signed, kind: Issuer, group: cert-manager.io}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  name: gl-k8s-integrator-webhook-ca
  namespace: gl-k8s-integrator
  labels: {app.kubernetes.io/name: gl-k8s-integrator}
spec:
  ca: {secretName: gl-k8s-integrator-webhook-ca}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: gl-k8s-integrator-webhooks
  namespace: gl-k8s-integrator
  labels: {app.kubernetes.io/name: gl-k8s-integrator}
spec:
  commonName: gl-k8s-integrator
  secretName: gl-k8s-integrator-webhooks
  ipAddresses: ["{{.IP}}"]
  usages: [server auth, digital signature]
  duration: 2160h
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  issuerRef: {name: gl-k8s-integrator-webhook-ca, kind: Issuer, group: cert-manager.io}
---
# kube-apiserver has it in a file: this one is good for long.
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: gl-k8s-integrator-apiserver-client
  namespace: gl-k8s-integrator
  labels: {app.kubernetes.io/name: gl-k8s-integrator}
spec:
  commonName: kube-apiserver
  secretName: gl-k8s-integrator-apiserver-client
  usages: [client auth, digital signature]
  duration: 19200h
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  issuerRef: {name: gl-k8s-integrator-webhook-ca, kind: Issuer, group: cert-manager.io}
{{- if .HooksIssuer}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: gl-k8s-integrator-hooks
  namespace: gl-k8s-integrator
  labels: {app.kubernetes.io/name: gl-k8s-integrator}
spec:
  secretName: gl-k8s-integrator-hooks
  dnsNames: ["{{.HooksHost}}"]
  usages: [server auth, digital signature]
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  issuerRef: {name: "{{.HooksIssuer}}", kind: ClusterIssuer, group: cert-manager.io}
{{- end}}
`))

// certManagerObjects is certificates.yaml.
func certManagerObjects(a Answers) ([]byte, error) {
	ip, _, err := net.SplitHostPort(a.WebhookAddress)
	if err != nil {
		return nil, fmt.Errorf("--webhook-address: %w", err)
	}
	var b bytes.Buffer
	if err := issued.Execute(&b, map[string]string{"IP": ip, "HooksIssuer": a.HooksIssuer, "HooksHost": a.hooksHost()}); err != nil {
		return nil, fmt.Errorf("writing certificates.yaml: %w", err)
	}
	return b.Bytes(), nil
}

// filesSource is the volume of deploy/optional/deployment.yaml.
const filesSource = "              - secret: {name: gl-k8s-integrator-files}\n"

// withIssued adds the Secrets of cert-manager to the volume of a Deployment.
func withIssued(text string, a Answers) (string, error) {
	if strings.Count(text, filesSource) != 1 {
		return "", errors.New("deploy/optional/deployment.yaml has no volume with the Secret gl-k8s-integrator-files, or several")
	}
	source := func(secret, items string) string {
		return "              - secret: {name: " + secret + ", items: [" + items + "]}\n"
	}
	more := source(issuedWebhooks, "{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}, {key: ca.crt, path: webhook-ca.crt}")
	if a.HooksIssuer != "" {
		more += source(issuedHooks, "{key: tls.crt, path: hooks.crt}, {key: tls.key, path: hooks.key}")
	}
	return strings.Replace(text, filesSource, filesSource+more, 1), nil
}

// FetchCertificates writes what cert-manager made for kube-apiserver into the folder. It waits for it a while.
func FetchCertificates(ctx context.Context, dir, kubeconfig string, out io.Writer) error {
	a, err := answersOf(dir)
	if err != nil {
		return err
	}
	if a.Certificates != CertManager {
		return fmt.Errorf("%s has certificates of its own: this is for --certificates %s alone", dir, CertManager)
	}
	f, err := fetch(ctx, a, kubeconfig)
	if err != nil {
		return err
	}
	for _, name := range f.names("") {
		if err := writeNew(filepath.Join(dir, filepath.FromSlash(name)), f[name].data, f[name].mode); err != nil {
			return fmt.Errorf("%w: nothing is overwritten; later ones come by init renew", err)
		}
	}
	for _, e := range ends(f, a) {
		fmt.Fprintf(out, "%s ends on %s\n", e, day(e.At))
	}
	return nil
}

// fetch reads what kube-apiserver needs.
func fetch(ctx context.Context, a Answers, kubeconfig string) (folder, error) {
	_, kube, err := adminClient(kubeconfig, a.Kubeconfig)
	if err != nil {
		return nil, err
	}
	s, err := awaitSecret(ctx, kube, issuedClient, []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey, "ca.crt"}, true,
		"apply certificates.yaml or install the chart first; `kubectl -n gl-k8s-integrator describe certificate` says what cert-manager waits for")
	if err != nil {
		return nil, err
	}
	f := folder{}
	f.add("kube-apiserver/apiserver-client.crt", s.Data[corev1.TLSCertKey], 0o644)
	f.add("kube-apiserver/apiserver-client.key", s.Data[corev1.TLSPrivateKeyKey], 0o600)
	f.add("kube-apiserver/webhook-ca.crt", s.Data["ca.crt"], 0o644)
	return f, nil
}

// awaitSecret waits until somebody in the cluster has put all keys into a Secret of our namespace. One that is not there at all is
// waited for if they make it themselves.
func awaitSecret(ctx context.Context, kube kubernetes.Interface, name string, keys []string, mayCome bool, hint string) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, secretWait)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := kube.CoreV1().Secrets(deploy.Namespace).Get(ctx, name, metav1.GetOptions{})
		whole := err == nil
		for _, key := range keys {
			whole = whole && len(s.Data[key]) > 0
		}
		switch {
		case whole:
			return s, nil
		case err != nil && ctx.Err() == nil && (!mayCome || !apierrors.IsNotFound(err)):
			return nil, fmt.Errorf("reading the Secret %s: %w: %s", name, err, hint)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the Secret %s of the namespace %s: %w: %s", name, deploy.Namespace, ctx.Err(), hint)
		case <-tick.C:
		}
	}
}

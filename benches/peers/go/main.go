// Command peer is a receiver of webhooks as one would write it in Go instead of Hookline's ingest: it verifies GitHub's
// signature over the raw body, appends the webhook to Kafka under its entity, and answers 200 once all in-sync replicas
// have it. Built and started by the benchmarks.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	bodyBytesMax    = 1 << 20
	headBytesMax    = 16 << 10
	readTimeout     = 10 * time.Second
	appendTimeout   = 10 * time.Second
	shutdownTimeout = 30 * time.Second
)

type receiver struct {
	secret   []byte
	topic    string
	producer *kgo.Client
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "where webhooks are received")
	bootstrap := flag.String("bootstrap", "127.0.0.1:9092", "Kafka's brokers")
	topic := flag.String("topic", "", "the topic that webhooks are appended to")
	linger := flag.Duration("linger", time.Millisecond, "how long a batch waits for more")
	flag.Parse()
	secret := os.Getenv("PEER_SECRET")
	if secret == "" || *topic == "" {
		log.Fatal("peer: PEER_SECRET and -topic must be given")
	}
	// acks=all and idempotence are what this client does by itself.
	producer, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*bootstrap, ",")...),
		kgo.ProducerLinger(*linger),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordDeliveryTimeout(appendTimeout),
	)
	if err != nil {
		log.Fatalf("peer: %v", err)
	}
	mux := http.NewServeMux()
	mux.Handle("POST /webhooks/{source}", &receiver{[]byte(secret), *topic, producer})
	server := &http.Server{
		Addr:           *listen,
		Handler:        mux,
		ReadTimeout:    readTimeout,
		MaxHeaderBytes: headBytesMax,
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-stop.Done()
		within, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		if err := server.Shutdown(within); err != nil {
			log.Printf("peer: %v", err)
		}
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatalf("peer: %v", err)
	}
	<-ended
	producer.Close()
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, request.Body, bodyBytesMax))
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	if !r.isSigned(request.Header.Get("X-Hub-Signature-256"), body) {
		http.Error(w, "the signature is wrong or missing", http.StatusUnauthorized)
		return
	}
	var order struct {
		Number string `json:"number"`
	}
	if err := json.Unmarshal(body, &order); err != nil || order.Number == "" {
		http.Error(w, "the body has no number", http.StatusUnprocessableEntity)
		return
	}
	record := &kgo.Record{
		Topic: r.topic,
		Key:   []byte(order.Number),
		Value: body,
		Headers: []kgo.RecordHeader{
			{Key: "id", Value: []byte(request.Header.Get("X-GitHub-Delivery"))},
			{Key: "type", Value: []byte(request.Header.Get("X-GitHub-Event"))},
			{Key: "source", Value: []byte(request.PathValue("source"))},
		},
	}
	if err := r.producer.ProduceSync(request.Context(), record).FirstErr(); err != nil {
		log.Printf("peer: not appended: %v", err)
		http.Error(w, "try again later", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// isSigned compares in constant time.
func (r *receiver) isSigned(header string, body []byte) bool {
	signature, err := hex.DecodeString(strings.TrimPrefix(header, "sha256="))
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, r.secret)
	mac.Write(body)
	return hmac.Equal(signature, mac.Sum(nil))
}

"""Tests a report in headless Chromium with mouse and keyboard, in light, dark and narrow layout. Fails at the first error.

    pip install selenium        # Debian: apt-get install chromium chromium-driver
    python tools/looking/report_check.py runs/quickstart/report.html screenshots/
"""

import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import Select


def open_browser(width, height, dark):
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"):
        options.add_argument(argument)
    if dark:
        options.add_argument("--force-dark-mode")
        options.add_argument("--blink-settings=preferredColorScheme=0")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def visible(driver):
    return [a for a in driver.find_elements(By.CSS_SELECTOR, "article") if a.is_displayed()]


def check_sorting(driver):
    articles = visible(driver)
    if len(articles) < 2:
        return
    for key, sign in (("misjudged", -1), ("drop", -1), ("lowest", 1), ("score", 1), ("length", -1), ("place", 1)):
        Select(driver.find_element(By.ID, "sort")).select_by_value(key)
        for column in driver.find_elements(By.CSS_SELECTOR, ".column"):
            values = [sign * float(a.get_attribute("data-" + key)) for a in column.find_elements(By.CSS_SELECTOR, "article")]
            assert values == sorted(values), (key, values[:5])
    show = Select(driver.find_element(By.ID, "show"))
    for kind, text in (("correct", "correct"), ("wrong", "wrong"), ("known", "known error")):
        show.select_by_visible_text(text)
        assert all(a.get_attribute("data-kind") == kind for a in visible(driver)), kind
    show.select_by_visible_text("all")


def check_tokens(driver):
    tokens = driver.find_elements(By.CSS_SELECTOR, ".tokens i")
    if not tokens:
        return
    inspector = driver.find_element(By.ID, "inspector")
    driver.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'center'})", tokens[1])
    ActionChains(driver).move_to_element(tokens[3]).move_to_element(tokens[1]).perform()
    assert inspector.is_displayed() and "reward" in inspector.text and "drop" in inspector.text, inspector.text
    body = driver.find_element(By.TAG_NAME, "body")
    body.send_keys("j")
    first = driver.switch_to.active_element
    assert "tokens" in first.get_attribute("class")
    first.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    second = driver.execute_script("return document.querySelector('.now').textContent")
    all_of_first = first.find_elements(By.TAG_NAME, "i")
    assert second == all_of_first[1].get_attribute("textContent"), second
    first.send_keys("e")
    assert "predicted error" in inspector.text, inspector.text
    first.send_keys("j")
    assert driver.switch_to.active_element != first
    driver.switch_to.active_element.send_keys("k")
    assert driver.switch_to.active_element == first
    first.send_keys(Keys.ESCAPE)
    assert not inspector.is_displayed()


def check_page(driver):
    ids = [s.get_attribute("id") for s in driver.find_elements(By.TAG_NAME, "section")]
    links = [a.get_attribute("href").split("#")[1] for a in driver.find_elements(By.CSS_SELECTOR, "nav a")]
    assert links == ids, (links, ids)
    for plot in driver.find_elements(By.CSS_SELECTOR, "svg.plot"):
        assert plot.get_attribute("aria-label"), "a plot without a name"
    wide = driver.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"the page is {wide} px wider than the window"
    errors = [e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE"]
    assert not errors, errors
    requests = [e["message"] for e in driver.get_log("performance") if '"Network.requestWillBeSent"' in e["message"]]
    foreign = [r for r in requests if '"url":"http' in r]
    assert not foreign, foreign


def shoot(driver, out, name):
    driver.save_screenshot(str(out / f"{name}-top.png"))
    for section in driver.find_elements(By.TAG_NAME, "section"):
        identifier = section.get_attribute("id")
        driver.execute_script("arguments[0].scrollIntoView({behavior: 'instant', block: 'start'})", section)
        driver.save_screenshot(str(out / f"{name}-{identifier}.png"))
    driver.execute_script("window.scrollTo({top: 0, behavior: 'instant'})")


def main():
    page, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name, width, height, dark in (("light", 1280, 900, False), ("dark", 1280, 900, True), ("narrow", 500, 900, False)):
        driver = open_browser(width, height, dark)
        try:
            driver.get(page.as_uri())
            assert driver.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == dark, name
            check_page(driver)
            check_sorting(driver)
            check_tokens(driver)
            shoot(driver, out, name)
        finally:
            driver.quit()
        print(f"{name}: works; screenshots in {out}")


if __name__ == "__main__":
    main()
